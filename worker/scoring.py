"""The scoring step: the model, what stands in for it when it fails, and the way back."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import structlog
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from worker.batch import Ends, Events, Features, Rejected
from worker.composite import Version, check_version, scores_by, settle_version
from worker.degradation import CPU, RULES, STEPS, WHOLE
from worker.exits import Exit, StopWorker
from worker.interval import ends
from worker.session import ModelError
from worker.yaml_lines import ConfigError

TRY_AGAIN_MS = 30_000.0
# What ONNX Runtime raises when it cannot compute some row. An accelerator reports its own failures as any of
# them but InvalidArgument.
_OF_ROWS = (InvalidArgument, Fail, RuntimeException)
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_NUMBER = re.compile(r"-?\b\d[\d.]*(?:e[+-]?\d+)?\b", re.IGNORECASE)

Load = Callable[[str], Version]  # of a device: auto, cpu, cuda:N, tensorrt:N
Rule = Callable[[NDArray[np.float64]], NDArray[np.float32]]  # (n, f) features to (n,) scores


class DeviceFailedError(Exception):
    """The accelerator gave up; whatever it was given is not at fault."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scored:
    """What the scoring step says of each event."""

    scores: NDArray[np.float32]  # (n,) not finite where there is no score
    degradation: NDArray[np.uint8]  # (n,) the worst step that the score stands on
    failed: dict[int, str]  # row to what the model said of it
    ends: Ends | None = None  # of the interval around each score; None: the card has none, or rules stand in


class Scorer:
    """The loaded model, its spare on the CPU, the rules, and which of them gives the scores at present."""

    def __init__(
        self,
        load: Load,
        device: str = "cpu",
        *,
        has_spare: bool = False,
        rule: Rule | None = None,
        prepare: Callable[[Version], Version] = settle_version,
        on_step: Callable[[int], None] = lambda _: None,
        pipeline: str = "",
    ) -> None:
        """Load the model, and a spare on the CPU if it is wanted and the model does not run there anyway.

        Args:
            load: opens and proves the model on a device.
            device: where it is to run. What `auto` has chosen is kept: a GPU that fails is no reason to
                choose the CPU, and call that as good.
            has_spare: a failure of the device is no end of the worker, the CPU stands in.
            rule: scores without a model; None: a model that no longer works ends the worker.
            prepare: makes a model ready for the thread that scores.
            on_step: told which step of the ladder scores stand on from now on: WHOLE, CPU or RULES.

        Raises:
            ModelError, ConfigError: the model, or its spare, does not prove itself. A start never degrades.
        """
        model = load(device)
        self.card = model.card
        self._load = load
        self._devices = {WHOLE: model.device}
        self._models = {WHOLE: model}
        if has_spare and model.device != "cpu":
            self._devices[CPU] = "cpu"
            self._models[CPU] = load("cpu")
        self._rule = rule
        self._prepare = prepare
        self._is_settled = False
        self._step = WHOLE
        self._try_again_ms = 0.0
        self._on_step = on_step
        self._log = structlog.get_logger(pipeline=pipeline)
        on_step(WHOLE)

    @property
    def device(self) -> str:
        """What gives the scores at present: cpu, cuda:N, tensorrt:N or rules."""
        return "rules" if self._step == RULES else self._models[self._step].device

    def report_to(self, on_step: Callable[[int], None]) -> None:
        """Tell somebody else from now on which step scores stand on, and at once."""
        self._on_step = on_step
        on_step(self._step)

    @property
    def model(self) -> Version | None:
        """What gives the scores at present; None: the rules do."""
        return None if self._step == RULES else self._models[self._step]

    @property
    def loaded(self) -> Version:
        """The version on its own device, whatever gives the scores at present."""
        return self._models[WHOLE]

    def settle(self) -> None:
        """Prepare what belongs to the thread that scores; call it there, before the first batch.

        Raises:
            ModelError: see infer.settle.
            StopWorker: the device failed.
        """
        if self._is_settled:
            return
        try:
            self._models = {step: self._settled(model) for step, model in self._models.items()}
        except DeviceFailedError as error:
            raise StopWorker(Exit.DEVICE, str(error)) from error
        self._is_settled = True

    def _settled(self, model: Version) -> Version:
        try:
            return self._prepare(model)
        except ModelError:
            raise
        except Exception as error:
            raise DeviceFailedError(f"{model.device} failed: {without_values(error)}") from error

    def score(self, features: Features, now_ms: float) -> Scored:
        """Score a batch on the best step that works.

        Raises:
            StopWorker: nothing works that the pipeline file allows.
        """
        if self._step != WHOLE and now_ms >= self._try_again_ms:
            self._climb(now_ms)
        while True:
            try:
                scores, failed = self._at_this_step(features)
            except DeviceFailedError as error:
                if CPU not in self._devices:
                    # After most CUDA errors the process can no longer use the device, whatever it returns.
                    raise StopWorker(Exit.DEVICE, str(error)) from error
                self._descend(CPU, str(error), now_ms)
            except ModelError as error:
                if self._rule is None:
                    raise StopWorker(Exit.MODEL, str(error)) from error
                self._descend(RULES, str(error), now_ms)
            else:
                return Scored(
                    scores=scores,
                    degradation=np.maximum(features.degradation, np.uint8(self._step))
                    if self._step
                    else features.degradation,
                    failed=failed,
                    ends=self._ends(scores),
                )

    def _ends(self, scores: NDArray[np.float32]) -> Ends | None:
        interval = self.card.interval
        return None if interval is None or self._step == RULES else ends(interval, scores)

    def _at_this_step(self, features: Features) -> tuple[NDArray[np.float32], dict[int, str]]:
        if self._step == RULES:
            assert self._rule is not None
            return self._rule(features.scalars), {}
        return score_rows(self._models[self._step], features)

    def _descend(self, step: int, why: str, now_ms: float) -> None:
        self._log.error(
            "scores are degraded", step=STEPS[step], why=why, tries_again_every_s=TRY_AGAIN_MS / 1000
        )
        self._stand_on(step, now_ms)

    def _climb(self, now_ms: float) -> None:
        """Take back the best step that proves itself anew."""
        self._try_again_ms = now_ms + TRY_AGAIN_MS
        for step in sorted(step for step in self._devices if step < self._step):
            try:
                model = self._settled(self._load(self._devices[step]))
                if model.card.sha256 != self.card.sha256:
                    raise ModelError(f"{model.card.folder}: holds another model than at the start")
            except (ModelError, ConfigError, OSError, DeviceFailedError) as error:
                self._log.warning("still degraded", step=STEPS[self._step], why=str(error))
                continue
            self._models[step] = model
            self._stand_on(step, now_ms)
            self._log.warning("scores are better again", step=STEPS[step], device=self.device)
            return

    def _stand_on(self, step: int, now_ms: float) -> None:
        self._step = step
        self._try_again_ms = now_ms + TRY_AGAIN_MS
        self._on_step(step)


def score_rows(model: Version, features: Features) -> tuple[NDArray[np.float32], dict[int, str]]:
    """(n,) scores, and the rows that the model chokes on with what it said; those score NaN.

    A batch that fails is halved until the rows are found that fail alone. When none of them could be
    scored, the golden rows decide who is at fault.

    Raises:
        DeviceFailedError: the accelerator failed.
        ModelError: the model does not score its golden rows any more.
    """
    scores, failed = np.full(len(features.scalars), np.nan, np.float32), dict[int, str]()
    _score_part(model, features, 0, len(scores), scores, failed)
    if failed and len(failed) == len(scores):
        try:
            check_version(model)
        except ModelError as error:
            if model.device != "cpu":
                raise DeviceFailedError(f"{model.device} failed: {error}") from error
            raise
    return scores, failed


def _score_part(
    model: Version,
    features: Features,
    start: int,
    stop: int,
    scores: NDArray[np.float32],
    failed: dict[int, str],
) -> None:
    part = features
    if stop - start < len(scores):
        part = replace(
            features,
            scalars=features.scalars[start:stop],
            sequences={name: values[start:stop] for name, values in features.sequences.items()},
        )
    try:
        scores[start:stop] = scores_by(model, part)
    except ModelError:
        raise
    except Exception as error:
        if model.device != "cpu" and not isinstance(error, InvalidArgument):
            raise DeviceFailedError(f"{model.device} failed: {without_values(error)}") from error
        if not isinstance(error, _OF_ROWS):
            raise
        if stop - start == 1:
            failed[start] = without_values(error)
            return
        middle = (start + stop) // 2
        _score_part(model, features, start, middle, scores, failed)
        _score_part(model, features, middle, stop, scores, failed)


def without_values(error: Exception) -> str:
    """The first line of an error of ONNX Runtime; its numbers may be feature values, and are left out."""
    line = _CODE.sub("", (str(error).strip() or type(error).__name__).splitlines()[0])
    where, status, said = line.partition("Status Message: ")
    return f"{where}{status}{_NUMBER.sub('#', said)}" if status else _NUMBER.sub("#", line)


def unscored(events: Events, scored: Scored) -> list[Rejected]:
    """The events without a score, each with its reason; they have become part of the state all the same."""
    rejected = []
    is_finite = np.isfinite(scored.scores)
    for row in () if is_finite.all() else np.flatnonzero(~is_finite).tolist():
        if row in scored.failed:
            rejected.append(_rejected(events, row, "score", "model_failed", scored.failed[row]))
        else:
            detail = "the model gave NaN or infinity for this event"
            rejected.append(_rejected(events, row, "score", "score_not_finite", detail))
    return rejected


def _rejected(events: Events, row: int, stage: str, reason: str, detail: str) -> Rejected:
    return Rejected(
        record=events.records[row],
        stage=stage,
        reason=reason,
        detail=detail,
    )
