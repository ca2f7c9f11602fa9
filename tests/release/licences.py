"""Which licences the installed dependencies have, and which of them we take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement

# They ask for no more than that their text goes along, or (MPL) end at their own files.
ALLOWED = frozenset(
    {
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MPL-2.0",
        "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
    }
)  # fmt: skip
# Packages that tell their licence in words, if at all: read by hand, under the words they had then.
_IN_WORDS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """What a package says of its own licence."""

    package: str
    version: str
    terms: str  # an SPDX expression where one is known, else the package's own words

    @property
    def is_allowed(self) -> bool:
        """Whether it may be taken: each part of an AND, one part of an OR."""
        return _allows(self.terms)


def _allows(terms: str) -> bool:
    """Parentheses are passed over: that may refuse what the expression allows, never the other way round."""
    flat = terms.replace("(", " ").replace(")", " ")
    return all(
        any(choice.split(" WITH ")[0].strip() in ALLOWED for choice in re.split(r"\bOR\b", part))
        for part in re.split(r"\bAND\b", flat)
    )


def licence(package: Distribution) -> Licence:
    """Read a package's metadata: the expression, else the classifiers, else the free text's first line."""
    metadata = package.metadata
    spoken = metadata.get_all("License-Expression") or []
    if not spoken:
        classifiers = metadata.get_all("Classifier") or []
        last = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]
        spoken = [words for words in last if words != "OSI Approved"]
    if not spoken:
        spoken = [(metadata.get_all("License") or ["not told"])[0].strip().splitlines()[0]]
    terms = " AND ".join(_IN_WORDS.get(words.lower(), words) for words in sorted(set(spoken)))
    return Licence(package=metadata["Name"], version=package.version, terms=terms)


def closure(requirements: Iterable[str]) -> list[Distribution]:
    """Every installed package that these requirements bring along on this platform, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    wanted = [(Requirement(line), "") for line in requirements]
    while wanted:
        requirement, extra = wanted.pop()
        key = (requirement.name.lower().replace("_", "-"), frozenset(requirement.extras))
        if key in seen or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        seen.add(key)
        package = found[key[0]] = distribution(requirement.name)
        for line in package.requires or ():
            wanted += [(Requirement(line), extra) for extra in ("", *requirement.extras)]
    return [found[name] for name in sorted(found)]


def table(licences: Sequence[Licence]) -> str:
    """The list as Markdown."""
    lines = [
        "# Licences of what Penstock needs",
        "",
        "| package | version | licence |",
        "| --- | --- | --- |",
    ]
    ordered = sorted(licences, key=lambda licence: licence.package.lower())
    return "\n".join([*lines, *(f"| {of.package} | {of.version} | {of.terms} |" for of in ordered), ""])
