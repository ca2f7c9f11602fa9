"""A bad row costs itself a score and nobody else; a bad model or device goes down the ladder and back."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import DeviceReset, Fail, InvalidArgument, RuntimeException

from tests.builders import batch, features, model_folder, pipeline, table_model
from worker.composite import Version
from worker.degradation import CPU, RULES, STALE_LOOKUP, WHOLE, WITHOUT_ROWS
from worker.exits import Exit, StopWorker
from worker.infer import Model, infer, load_model
from worker.interval import Interval
from worker.plan import feature_plan
from worker.rules import scoring_rule
from worker.scoring import TRY_AGAIN_MS, Scored, Scorer, score_rows, unscored, without_values
from worker.session import ModelError

INPUTS = "  - {tensor: x, dtype: float32, shape: [n, 2], features: [speed, amount]}"
TABLE = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
ROWS = np.array([[1, 0], [10, 3]], np.float32)
GOLDEN = {"x": ROWS, "expected": np.array([0.1, 4.0], np.float32)}
GPU = "cuda:0"
POISON = 99.0  # beyond the table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version that scores speed times the table's entry for the amount."""
    return model_folder(
        tmp_path,
        table_model(TABLE, 2),
        inputs=INPUTS,
        output="{tensor: y, meaning: probability}",
        golden=GOLDEN,
    )


Open = Callable[[str], Model]


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Open:
    """A function that loads that version on a device."""
    plan = feature_plan(
        pipeline(tmp_path, "  amount: {kind: field, field: amount}\n  speed: {kind: field, field: speed}")
    )
    return lambda device: load_model(folder, plan, device)


def rows(amount: list[float]) -> Any:
    """Features of these amounts; speed is 10."""
    return features(np.column_stack([amount, np.full(len(amount), 10.0)]))


def amounts(n: int) -> list[float]:
    """Amounts that the table has."""
    return [float(i % len(TABLE)) for i in range(n)]


# Rows that the model chokes on.


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_rows_that_the_model_chokes_on_are_found_and_the_others_scored(
    opened: Open, n: int, share: float
) -> None:
    model = opened("cpu")
    whole = infer(model, rows(amounts(n)))
    is_poison = np.random.default_rng(n).random(n) < share
    mixed = np.where(is_poison, POISON, amounts(n))

    scores, failed = score_rows(model, rows(mixed.tolist()))

    assert sorted(failed) == np.flatnonzero(is_poison).tolist()
    assert np.isnan(scores[is_poison]).all()
    assert np.array_equal(scores[~is_poison], whole[~is_poison])


def test_a_batch_of_poison_alone_is_no_fault_of_the_model(opened: Open) -> None:
    scores, failed = score_rows(opened("cpu"), rows([POISON] * 100))

    assert len(failed) == 100
    assert np.isnan(scores).all()


def test_what_the_model_said_is_told_without_the_numbers_of_the_event(opened: Open) -> None:
    _, failed = score_rows(opened("cpu"), rows([0.0, 73.0]))

    assert "Gather node" in failed[1]
    assert "73" not in failed[1]
    assert "\n" not in failed[1]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : bad index 7, at most 3", "bad index #, at most #"),
        (
            "run 1 Node /l.0/Gather Status Message: idx=-7.5e-3!\nmore",
            "run 1 Node /l.0/Gather Status Message: idx=#!",
        ),
        ("", "Exception"),
    ],
)
def test_an_error_keeps_its_node_and_loses_its_numbers(said: str, told: str) -> None:
    assert without_values(Exception(said)) == told


def test_every_event_without_a_score_has_its_own_reason() -> None:
    made = batch([1, 2, 3]).events
    scored = Scored(
        scores=np.array([0.5, np.inf, np.nan], np.float32),
        degradation=np.zeros(3, np.uint8),
        failed={2: "index # out of range"},
    )

    infinite, failed = unscored(made, scored)

    assert (infinite.record.offset, infinite.stage, infinite.reason) == (1, "score", "score_not_finite")
    assert (failed.record.offset, failed.stage, failed.reason) == (2, "score", "model_failed")
    assert failed.detail == "index # out of range"
    assert failed.record == made.records[2]


# The ladder.


class Breakable:
    """A session that fails as the device's does once it is told to; proven by the test on a real device."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.error: Exception | None = None

    def run(self, *wanted: Any) -> Any:
        """As the session, unless broken."""
        if self.error is not None:
            raise self.error
        return self._session.run(*wanted)


class Device:
    """Loads the model onto a device that may break: its sessions so far, and whether it opens another."""

    def __init__(self, opened: Open) -> None:
        self._opened = opened
        self.sessions: list[Breakable] = []
        self.is_gone = False

    def load(self, device: str) -> Model:
        """A new session, as load_model gives it; `auto` takes the device while it works."""
        if device == "cpu" or (device == "auto" and self.is_gone):
            return self._opened("cpu")
        if self.is_gone:
            raise ModelError("does not run on cuda:0: CUDA failure 700")
        model = self._opened("cpu")
        self.sessions.append(Breakable(model.session.runtime))
        return replace(model, session=replace(model.session, runtime=self.sessions[-1], device="cuda:0"))


@pytest.fixture
def device(opened: Open) -> Device:
    """A device that works until it is told not to."""
    return Device(opened)


def as_it_is(model: Version) -> Version:
    """What prepares a model of a device that is only called one."""
    return model


SICK = Fail("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered")
LATER_MS = TRY_AGAIN_MS


def test_a_device_that_fails_ends_the_worker_unless_the_file_allows_the_cpu(device: Device) -> None:
    scorer = Scorer(device.load, GPU)
    device.sessions[0].error = SICK

    with pytest.raises(StopWorker, match="cuda:0 failed: CUDA failure") as caught:
        scorer.score(rows([1.0, 2.0]), 0.0)

    assert caught.value.code == Exit.DEVICE


def test_a_device_that_fails_while_it_is_made_ready_ends_the_worker(device: Device) -> None:
    def fail(_: Version) -> Version:
        raise SICK

    scorer = Scorer(device.load, GPU, prepare=fail)

    with pytest.raises(StopWorker, match="cuda:0 failed: CUDA failure") as caught:
        scorer.settle()

    assert caught.value.code == Exit.DEVICE


def test_a_device_that_cannot_be_made_ready_again_is_not_taken_back(device: Device) -> None:
    prepared: list[str] = []

    def prepare(model: Version) -> Version:
        prepared.append(model.device)
        if len(prepared) > 2:
            raise SICK
        return model

    scorer = Scorer(device.load, GPU, has_spare=True, prepare=prepare)
    scorer.settle()
    device.sessions[0].error = SICK
    scorer.score(rows([1.0, 2.0]), 0.0)

    assert scorer.score(rows([1.0]), LATER_MS).degradation.tolist() == [CPU]
    assert prepared == ["cuda:0", "cpu", "cuda:0"]


def test_scores_go_on_from_the_cpu_and_back_to_the_device_when_it_works_again(device: Device) -> None:
    steps: list[int] = []
    scorer = Scorer(device.load, GPU, has_spare=True, on_step=steps.append, prepare=as_it_is)
    whole = scorer.score(rows([1.0, 2.0]), 0.0)
    device.sessions[0].error = SICK
    device.is_gone = True

    spare = scorer.score(rows([1.0, 2.0]), 1.0)
    on_cpu = scorer.device
    scorer.score(rows([1.0]), LATER_MS + 1.0)  # tries, and stays
    device.is_gone = False
    soon = scorer.score(rows([1.0]), 2 * LATER_MS)
    again = scorer.score(rows([1.0, 2.0]), 2 * LATER_MS + 1.0)

    assert whole.degradation.tolist() == again.degradation.tolist() == [WHOLE, WHOLE]
    assert spare.degradation.tolist() == [CPU, CPU]
    assert soon.degradation.tolist() == [CPU], "it is not tried before its time"
    assert whole.scores.tolist() == spare.scores.tolist() == again.scores.tolist()
    assert (on_cpu, scorer.device) == ("cpu", "cuda:0")
    assert steps == [WHOLE, CPU, WHOLE]


def test_a_gpu_that_was_chosen_by_measure_is_the_one_to_come_back_to(device: Device) -> None:
    """Choosing anew while it is away would give the CPU, and its scores would be called whole."""
    scorer = Scorer(device.load, "auto", has_spare=True, prepare=as_it_is)
    device.sessions[0].error = SICK
    device.is_gone = True
    scorer.score(rows([1.0]), 0.0)

    away = scorer.score(rows([1.0]), LATER_MS)
    device.is_gone = False
    back = scorer.score(rows([1.0]), 2 * LATER_MS)

    assert away.degradation.tolist() == [CPU]
    assert back.degradation.tolist() == [WHOLE]
    assert scorer.device == "cuda:0"


@pytest.mark.parametrize("error", [SICK, RuntimeException("x"), DeviceReset("x"), ValueError("x")])
def test_on_a_device_whatever_does_not_blame_the_input_is_its_own_failure(
    device: Device, error: Exception
) -> None:
    scorer = Scorer(device.load, GPU, has_spare=True)
    device.sessions[0].error = error

    scored = scorer.score(rows([1.0, POISON, 2.0]), 0.0)

    assert sorted(scored.failed) == [1]
    assert scored.degradation.tolist() == [CPU] * 3


def test_on_a_device_a_bad_row_is_still_the_row_s_fault(device: Device) -> None:
    scored = Scorer(device.load, GPU).score(rows([1.0, POISON, 2.0]), 0.0)

    assert sorted(scored.failed) == [1]
    assert scored.degradation.tolist() == [WHOLE] * 3


def test_a_device_that_misses_its_golden_rows_is_sick_and_not_the_model(device: Device) -> None:
    """It refuses every input, also the golden ones: InvalidArgument alone would not tell."""
    scorer = Scorer(device.load, GPU, has_spare=True)
    device.sessions[0].error = InvalidArgument("bad input")

    assert scorer.score(rows([1.0, 2.0]), 0.0).degradation.tolist() == [CPU, CPU]


def test_an_error_that_no_row_explains_is_a_bug_and_crashes(opened: Open) -> None:
    model = opened("cpu")
    broken = Breakable(model.session.runtime)
    broken.error = TypeError("ours")

    with pytest.raises(TypeError):
        score_rows(replace(model, session=replace(model.session, runtime=broken)), rows([1.0, 2.0]))


@pytest.fixture
def lose_golden(folder: Path) -> Callable[[], Callable[[], None]]:
    """A function that makes the version miss its golden rows, and returns one that undoes it."""
    golden = folder / "golden.npz"
    good = golden.read_bytes()

    def lose() -> Callable[[], None]:
        np.savez(golden, x=ROWS, expected=ROWS[:, 0] + 9, rtol=0.0, atol=0.0)
        return restore

    def restore() -> None:
        golden.write_bytes(good)

    return lose


Lose = Callable[[], Callable[[], None]]


def test_a_model_that_no_longer_works_ends_the_worker_unless_the_file_has_rules(
    opened: Open, lose_golden: Lose
) -> None:
    scorer = Scorer(opened)
    lose_golden()

    assert scorer.score(rows([1.0, POISON]), 0.0).failed, "a row that scores shows that the model works"
    with pytest.raises(StopWorker, match=r"golden\.npz") as caught:
        scorer.score(rows([POISON, POISON]), 0.0)

    assert caught.value.code == Exit.MODEL


def test_rules_stand_in_for_the_model_until_it_works_again(opened: Open, lose_golden: Lose) -> None:
    steps: list[int] = []
    rule = scoring_rule("amount > 1", ("amount", "speed"), (0.0, 1.0))
    scorer = Scorer(opened, rule=rule, on_step=steps.append)
    find_golden = lose_golden()

    by_rule = scorer.score(rows([POISON, POISON]), 0.0)
    still = scorer.score(rows([0.0, 2.0]), LATER_MS)
    named = scorer.device
    find_golden()
    again = scorer.score(rows([0.0, 2.0]), 2 * LATER_MS)

    assert by_rule.scores.tolist() == [1.0, 1.0]
    assert by_rule.degradation.tolist() == [RULES, RULES]
    assert by_rule.failed == {}
    assert still.scores.tolist() == [0.0, 1.0]
    assert named == "rules"
    np.testing.assert_allclose(again.scores, [1.0, 3.0])
    assert again.degradation.tolist() == [WHOLE, WHOLE]
    assert steps == [WHOLE, RULES, WHOLE]


def test_from_the_rules_the_best_step_that_works_is_taken(device: Device, lose_golden: Lose) -> None:
    steps: list[int] = []
    rule = scoring_rule("amount > 1", ("amount", "speed"), (0.0, 1.0))
    scorer = Scorer(device.load, GPU, has_spare=True, rule=rule, on_step=steps.append, prepare=as_it_is)
    find_golden = lose_golden()
    device.is_gone = True

    scorer.score(rows([POISON]), 0.0)
    find_golden()
    scorer.score(rows([1.0]), LATER_MS)
    device.is_gone = False
    scorer.score(rows([1.0]), 2 * LATER_MS)

    assert steps == [WHOLE, CPU, RULES, CPU, WHOLE]


def test_the_worst_step_counts(device: Device) -> None:
    scorer = Scorer(device.load, GPU, has_spare=True)
    given = features(np.array([[1.0, 10.0]] * 3), degradation=[WHOLE, STALE_LOOKUP, WITHOUT_ROWS])

    before = scorer.score(given, 0.0)
    device.sessions[0].error = SICK
    after = scorer.score(given, 0.0)

    assert before.degradation.tolist() == [WHOLE, STALE_LOOKUP, WITHOUT_ROWS]
    assert after.degradation.tolist() == [CPU, CPU, CPU]


def test_a_start_never_degrades(opened: Open, lose_golden: Lose) -> None:
    lose_golden()

    with pytest.raises(ModelError):
        Scorer(opened, rule=scoring_rule("amount > 1", ("amount", "speed"), (0.0, 1.0)))


def test_a_spare_that_does_not_work_stops_the_start(device: Device, lose_golden: Lose) -> None:
    def load(name: str) -> Model:
        if name == "cpu":
            lose_golden()
        return device.load(name)

    with pytest.raises(ModelError):
        Scorer(load, GPU, has_spare=True)


def test_a_model_that_was_exchanged_meanwhile_is_not_taken_back(device: Device, folder: Path) -> None:
    scorer = Scorer(device.load, GPU, has_spare=True, prepare=as_it_is)
    device.sessions[0].error = SICK
    scorer.score(rows([1.0]), 0.0)
    other = table_model(np.append(TABLE, np.float32(0.5)), 2)
    card = (folder / "model.yaml").read_text()
    (folder / "model.onnx").write_bytes(other)
    (folder / "model.yaml").write_text(card.replace(scorer.card.sha256, hashlib.sha256(other).hexdigest()))

    assert scorer.score(rows([1.0]), LATER_MS).degradation.tolist() == [CPU]


@pytest.mark.gpu
@pytest.mark.skipif(not list(Path("/dev").glob("nvidia[0-9]*")), reason="there is no GPU here")
def test_a_real_device_that_loses_its_context_hands_over_to_the_cpu(folder: Path, tmp_path: Path) -> None:
    """In a process of its own: after this, nothing in it can use CUDA."""
    program = f"""
import ctypes, os
from functools import partial
from pathlib import Path
import numpy as np
from tests.builders import features, pipeline
from worker.infer import load_model
from worker.interval import Interval
from worker.plan import feature_plan
from worker.scoring import Scorer
plan = feature_plan(pipeline(Path({str(tmp_path)!r}), "  amount: {{kind: field, field: amount}}\\n"
    "  speed: {{kind: field, field: speed}}"))
folder = Path({str(folder)!r})
scorer = Scorer(partial(load_model, folder, plan), "cuda:0", has_spare=True)
rows = features(np.array([[1.0, 10.0], [2.0, 10.0]]))
before = scorer.score(rows, 0.0)
loaded = {{line.split()[-1] for line in open("/proc/self/maps") if "libcudart" in line}}
ctypes.CDLL(loaded.pop()).cudaDeviceReset()
after = scorer.score(rows, 1.0)
np.testing.assert_allclose(before.scores, after.scores, rtol=1e-5)
print(before.degradation.tolist(), after.degradation.tolist(), scorer.device)
os._exit(0)  # what a lost context does at exit is not asked here
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )

    assert "[0, 0] [3, 3] cpu" in done.stdout, done.stdout + done.stderr


def test_a_score_has_the_interval_of_the_card(opened: Open) -> None:
    interval = Interval(coverage=0.9, edges=(), low=(-1.0,), high=(2.0,))
    model = replace(opened("cpu"), card=replace(opened("cpu").card, interval=interval))

    scored = Scorer(lambda _: model).score(rows([1.0, POISON]), 0.0)

    assert scored.ends is not None
    low, high = scored.ends
    assert (low[0], high[0]) == (scored.scores[0] - 1, scored.scores[0] + 2)
    assert np.isnan([low[1], high[1]]).all()
