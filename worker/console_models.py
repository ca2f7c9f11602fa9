"""Versions of a pipeline's model for the console: what there is, who changed what, and changing it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from typing import Any

from worker.config import Pipeline
from worker.control import (
    ACTIONS,
    ControlError,
    ControlLog,
    ControlWriter,
    create_control_topic,
    describe,
    history,
    next_change,
)
from worker.repository import RepositoryError, versions

_READ_S = 5.0
_TOLD = 50  # changes, the newest first
_NEEDS_VERSION = ("promote", "canary", "shadow")


def models(pipeline: Pipeline) -> dict[str, Any]:
    """Versions in the repository, the routing in force and its history; `trouble` says what is missing."""
    ref = pipeline.model
    if ref is None:
        return {
            "model": "",
            "versions": [],
            "changes": [],
            "routing": None,
            "trouble": "",
            "can_change": False,
        }
    trouble = ""
    try:
        found = versions(ref.repository, ref.name)
    except RepositoryError as error:
        found, trouble = [ref.version], str(error)
    said: dict[str, Any] = {"model": ref.name, "versions": list(found), "at_start": ref.version}
    said |= {"changes": [], "routing": None, "words": "", "statuses": [], "can_change": False}
    if pipeline.rollout is None:
        return {**said, "trouble": trouble}
    try:
        with closing(ControlLog(pipeline.kafka.client_properties(), pipeline.rollout.control)) as log:
            decided = log.read_to_end(_READ_S)
    except ControlError as error:
        return {**said, "trouble": str(error)}
    routing = decided.in_force(pipeline.name, ref.version)
    statuses = [asdict(s) for (name, _), s in sorted(decided.statuses.items()) if name == pipeline.name]
    changes = [asdict(change) for change in history(decided, pipeline.name)[: -_TOLD - 1 : -1]]
    return {
        **said,
        "trouble": trouble,
        "can_change": True,
        "can_shadow": pipeline.rollout.shadow is not None,
        "routing": asdict(routing),
        "words": describe(routing),
        "statuses": statuses,
        "changes": changes,
    }


def change(pipelines: Mapping[str, Pipeline], query: Mapping[str, str]) -> str:
    """Offer a change of the routing, as `penstock models` does; returns what is so from then on.

    Args:
        query: pipeline, action, and where they apply version, share (percent) and why.

    Raises:
        ValueError: it is not understood, or cannot be made.
    """
    pipeline, action = pipelines.get(query.get("pipeline", "")), query.get("action", "")
    if pipeline is None or pipeline.model is None or pipeline.rollout is None:
        raise ValueError("expected ?pipeline= with the name of one that runs here and has a section rollout")
    if action not in ACTIONS:
        raise ValueError(f"expected &action= and one of {', '.join(ACTIONS)}")
    new: dict[str, Any] = {}
    if action in _NEEDS_VERSION:
        new["version"] = query.get("version", "")
        if new["version"] not in versions(pipeline.model.repository, pipeline.model.name):
            raise ValueError("expected &version= and one that is in the repository")
        if action != "promote":
            new["share"] = _share(query.get("share", "100"))
    properties, topic = pipeline.kafka.client_properties(), pipeline.rollout.control
    with suppress(ControlError):  # it may be there all the same: reading it says so
        create_control_topic(properties, topic)
    try:
        with closing(ControlLog(properties, topic)) as log:
            made = next_change(
                log.read_to_end(_READ_S),
                pipeline.name,
                pipeline.model.version,
                action,
                by="console",
                why=query.get("why", "")[:200],
                **new,
            )
            ControlWriter(properties, topic).change(made)
    except ControlError as error:
        raise ValueError(str(error)) from error
    return f"revision {made.revision}: {describe(made.routing)}"


def _share(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise ValueError("expected &share= in percent, more than 0 and at most 100")
    return percent / 100
