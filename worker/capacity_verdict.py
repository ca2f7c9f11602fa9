"""Which part of a loaded pipeline gives out first, from who was how busy."""

from __future__ import annotations

from typing import Any

FULL = 0.9  # busy so much of the time, there is no more to come
WAITS = ("poll",)  # stages in which the loop waits for somebody


def bottleneck(busy: dict[str, Any]) -> dict[str, Any]:
    """What gives out first, with the figures that it is concluded from.

    In this order, because a cause further up explains those below: a machine that has no core left slows down
    everybody on it; a loop that never waits is the worker's own; else whoever it waits for.

    Args:
        busy: `cores` used by part, and `stage_share` of the loop's time by stage.
    """
    cores, stages = busy["cores"], busy["stage_share"]
    loop = sum(share for stage, share in stages.items() if stage not in WAITS)
    stage, share = max(stages.items(), key=lambda item: item[1], default=("poll", 0.0))
    machine = None if cores["machine"] is None else cores["machine"] / cores["of"]
    facts = {
        "loop_busy": loop,
        "largest_stage": stage,
        "largest_stage_share": share,
        "model_share": stages.get("infer", 0.0),
        "machine_busy": machine,
    }
    where, said = _where(cores, loop, machine, stage)
    return {"part": where, "says": said, **facts}


def _where(cores: dict[str, Any], loop: float, machine: float | None, stage: str) -> tuple[str, str]:
    if machine is not None and machine >= FULL:
        parts = [
            f"{name} {cores[name]:.2f}" for name in ("worker", "brokers", "redis") if cores[name] is not None
        ]
        return "machine", (
            f"this machine: {machine:.0%} of its {cores['of']} cores are busy, {', '.join(parts)}; a worker "
            f"that shares them with less can do more"
        )
    if loop >= FULL:
        return (
            "worker",
            f"the worker's loop: busy {loop:.0%} of the time, most of it in `{stage}`; add members",
        )
    if cores["redis"] is not None and cores["redis"] >= FULL:
        return (
            "redis",
            f"Redis: {cores['redis']:.2f} of the one core that it computes on; add shards, not members",
        )
    if cores["brokers"] is not None and cores["brokers"] >= FULL * (cores["of"] - 1 or 1):
        return "brokers", f"the brokers on this machine: {cores['brokers']:.2f} cores; give them more"
    return "waiting", (
        f"none of the processors: the loop is busy {loop:.0%} of the time and else waits for records: a "
        f"broker, the network, or fetch settings in kafka.properties"
    )
