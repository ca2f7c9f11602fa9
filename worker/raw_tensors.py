"""Tensors as they are through the model that serves, without features: every output it has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.asks import NotNowError, NotPossibleError, TensorsAsk
from worker.buckets import plain_options
from worker.composite import Composite, Version
from worker.infer import whole_rows
from worker.scoring import without_values


def raw_outputs(version: Version | None, ask: TensorsAsk) -> dict[str, NDArray[Any]]:
    """The output tensors by name; the loop's thread calls.

    Rows are made a multiple as for scores, so the tensors of an event give the score of that event.

    Args:
        version: what gives the scores at present; None: rules do.
        ask: tensors of all inputs, and which outputs are wanted.

    Raises:
        NotNowError: rules stand in for the model.
        NotPossibleError: the version is several models, or this one refuses the tensors.
    """
    if version is None:
        raise NotNowError("rules stand in for the model at present")
    if isinstance(version, Composite):
        raise NotPossibleError(f"{version.card.name} is made of several models: ask for scores of events")
    runtime = version.session.runtime
    names = list(ask.outputs or [output.name for output in runtime.get_outputs()])
    whole = whole_rows(version, ask.tensors, ask.rows)
    padded = len(next(iter(whole.values())))
    try:
        given = runtime.run(names, whole, plain_options(version.session))
    except Exception as error:
        raise NotPossibleError(f"the model refuses the tensors: {without_values(error)}") from error
    outputs = {}
    for name, value in zip(names, given, strict=True):
        if not isinstance(value, np.ndarray):
            raise NotPossibleError(f"output {name}: found a map, expected a tensor: name others in outputs")
        outputs[name] = value[: ask.rows] if value.ndim and len(value) == padded else value
    return outputs
