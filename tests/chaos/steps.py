"""Where a worker can be hit: every step of the loop by the name that the product has for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One function of the loop; a fail point stands before and one after it."""

    name: str
    module: str
    attribute: str  # a function of the module, or Class.method

    @property
    def points(self) -> tuple[str, str]:
        """The names of its two fail points."""
        return f"{self.name}.before", f"{self.name}.after"


STEPS = (
    Step(name="poll", module="worker.source", attribute="Source.poll"),
    Step(name="decode", module="worker.run", attribute="decode"),
    Step(name="features", module="worker.run", attribute="enrich"),
    Step(name="load", module="feature_cache.redis_store", attribute="RedisStore.read"),
    Step(name="infer", module="worker.scoring", attribute="Scorer.score"),
    Step(name="decide", module="worker.judge", attribute="decide_batch"),
    Step(name="encode", module="worker.publish", attribute="score_columns"),
    Step(name="send", module="worker.sink", attribute="Sink.send"),
    Step(name="begin", module="worker.native_send", attribute="Producer.begin_transaction"),
    Step(name="acknowledge", module="worker.sink", attribute="Sink.is_committing"),
    Step(name="flush", module="worker.native_send", attribute="Producer.flush"),
    Step(name="offsets", module="worker.native_send", attribute="Producer.send_offsets_to_transaction"),
    Step(name="commit", module="worker.native_send", attribute="Producer.commit_transaction"),
    Step(name="commit-offsets", module="worker.sink", attribute="commit_of"),
    Step(name="hear-offsets", module="worker.sink", attribute="are_committed"),
    Step(name="write", module="feature_cache.redis_store", attribute="RedisStore.write"),
    Step(name="take", module="feature_cache.redis_store", attribute="RedisStore.take"),
    Step(name="init", module="worker.native_send", attribute="Producer.init_transactions"),
    Step(name="abort", module="worker.native_send", attribute="Producer.abort_transaction"),
    Step(name="seek", module="worker.source", attribute="Consumer.seek"),
    # The callbacks of a rebalance, which the worker hands to this function.
    Step(name="assign", module="worker.source", attribute="Consumer.subscribe:on_assign"),
    Step(name="revoke", module="worker.source", attribute="Consumer.subscribe:on_revoke"),
    Step(name="lost", module="worker.source", attribute="Consumer.subscribe:on_lost"),
)

# What a worker of this delivery mode passes all the time, without anybody else's doing.
_ALWAYS = ("poll", "decode", "features", "load", "infer", "decide", "encode", "send", "write")
STEADY = {
    "exactly_once": (*_ALWAYS, "begin", "offsets", "commit"),
    "at_least_once": (*_ALWAYS, "acknowledge", "commit-offsets", "hear-offsets"),
}


def steady_points(mode: str) -> tuple[str, ...]:
    """The fail points that a working worker passes again and again."""
    return tuple(point for step in STEPS if step.name in STEADY[mode] for point in step.points)
