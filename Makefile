# Penstock. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# How long `make demo` runs, in seconds.
SECONDS ?= 60
# How long `make chaos` injects faults, in minutes, from which seed, and which ones (all when empty).
MINUTES ?= 30
SEED ?= 1
FAULTS ?=
# Further arguments for tests.chaos, such as --json: python -m tests.chaos --help
CHAOS ?=
# Further arguments for pytest: make test PYTEST="tests/unit -x"
PYTEST ?=
# Most tests wait for Kafka, Redis or a worker: two files at a time take half as long, also on two cores.
# More would only start more Kafkas. `JOBS=0` runs them one after another, with their output.
JOBS ?= 2
PACKAGES := worker feature_cache schemas loadgen tests
# Further arguments for the side-by-side run: python -m benchmarks.bench --help
BENCH ?=
PROFILE ?=
CHECK ?=

.PHONY: help env services demo test chaos proof fuzz bench bench-check profile docs release-check lint format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

env: $(STAMP) ## create .venv and install penstock into it

# Reinstalled when pyproject.toml changes; otherwise this takes no time.
$(STAMP): pyproject.toml
	@for found in python3 python3.13 python3.12 python3.11 none; do
	  [ "$$found" = none ] && break
	  command -v "$$found" >/dev/null && "$$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
	done
	if [ "$$found" = none ]; then
	  echo "env: found $$(python3 --version 2>&1 || true), expected Python 3.11 or newer as python3 (apt-get install python3)" >&2
	  exit 1
	fi
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then
	  package="$$("$$found" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
	  root=; [ "$$(id -u)" = 0 ] || root="sudo -n"
	  echo "env: installing $$package, without which $$found cannot make environments"
	  ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || $$root apt-get -qq update || true
	  if ! $$root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$$package" >/dev/null; then
	    $$root apt-get -qq update || true
	    $$root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$$package" >/dev/null || {
	      echo "env: $$package is missing and could not be installed from here; as root: apt-get update && apt-get install $$package" >&2
	      exit 1
	    }
	  fi
	fi
	# A folder left by an interrupted run may lack pip; making it anew over an older one is harmless.
	"$(PYTHON)" -m pip --version >/dev/null 2>&1 || "$$found" -m venv --clear $(VENV)
	echo "env: installing penstock into $(VENV) (about 600 MB on the first time)"
	"$(PYTHON)" -m pip install -q --disable-pip-version-check --retries 10 --timeout 180 -e '.[dev]'
	touch $@

services: $(STAMP) ## install what the tests' real Kafka and Redis need, when absent
	@$(PYTHON) -m tests.services install

demo: $(STAMP) ## score two simulated streams live, for SECONDS=60
	@$(VENV)/bin/penstock demo --seconds $(SECONDS)

test: $(STAMP) services ## run the whole test suite against a real Kafka and a real Redis
	@$(PYTHON) -m pytest -n $(JOBS) --dist loadfile -m "not alone" --durations 40 --durations-min 5 $(PYTEST)
	# In a process of its own: what the others leave running is enough to bring two cores to a standstill.
	$(PYTHON) -m pytest -m alone --durations 15 $(PYTEST) || [ $$? = 5 ]  # 5: none of what was asked for is such a test

chaos: $(STAMP) services ## inject faults for MINUTES=30, SEED=1, FAULTS=kill,flush, and judge every outcome
	@$(PYTHON) -m tests.chaos --minutes $(MINUTES) --seed $(SEED) --faults "$(FAULTS)" --vary --measure --result chaos $(CHAOS)

fuzz: $(STAMP) ## damage inputs at random for MINUTES=10 wherever bytes come in
	@$(PYTHON) -m tests.fuzz --minutes $(MINUTES) --result fuzz

proof: $(STAMP) services ## plant four bugs that the chaos suite must find
	@$(PYTHON) -m tests.chaos.proof

bench: $(STAMP) services ## run Penstock and its peers side by side (an hour); BENCH="--only passthrough,penstock"
	@$(PYTHON) -m benchmarks.bench $(BENCH)

bench-check: $(STAMP) ## has a stage of the hot path become slower since the last release? CHECK="--rounds 3"
	@$(PYTHON) -m benchmarks.check $(CHECK)

profile: $(STAMP) services ## where a worker of the fraud pipeline spends its time, by stage and as a flame graph
	@$(PYTHON) -m benchmarks.profile $(PROFILE)

docs: $(STAMP) ## build the site of docs/ into site/, strictly: a broken link or a page that no menu has fails
	@$(PYTHON) -m mkdocs build --strict --quiet --site-dir site

release-check: $(STAMP) ## build wheel and sdist, run the demo from an empty environment, list licences, into dist/
	@$(PYTHON) -m tests.release

lint: $(STAMP) ## check formatting, rules and types
	@$(PYTHON) -m ruff format --check $(PACKAGES) benchmarks
	$(PYTHON) -m ruff check $(PACKAGES) benchmarks
	$(PYTHON) -m mypy --strict $(PACKAGES)

format: $(STAMP) ## format the code and apply the safe fixes
	@$(PYTHON) -m ruff format $(PACKAGES)
	$(PYTHON) -m ruff check --fix $(PACKAGES)

clean: ## remove the environment and every cache of the checkout
	@rm -rf $(VENV) *.egg-info build .mypy_cache .ruff_cache .pytest_cache .hypothesis
