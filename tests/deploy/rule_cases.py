"""For every alert rule: series over which it fires, and series near them over which it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

P = 'pipeline="fraud"'
W = f'{P}, instance="w1:8080", job="penstock"'
PENSTOCK = 'instance="w1:8080", job="penstock"'
REDIS = 'instance="redis-exporter:9121", job="redis"'
GPU = 'instance="gpu-exporter:9400", job="gpu", gpu="0"'
BY_PIPELINE = {"pipeline": "fraud"}
BY_WORKER = {"pipeline": "fraud", "instance": "w1:8080"}
BY_GPU = {"instance": "gpu-exporter:9400", "gpu": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Input of one rule, a value every step in promtool's notation, and what follows from it."""

    alert: str
    series: Mapping[str, str]
    at: str  # when the rule is looked at
    fires: tuple[Mapping[str, str], ...] = ()  # labels of each alert, severity left out
    why: str = ""  # of a silent case: what keeps it silent
    step: str = "15s"  # between values, and between looks at the rules


def latency(late: str, total: str, seconds: str = '"1.0"') -> dict[str, str]:
    """The two series of the objective: a histogram of which only one bucket and the count are looked at."""
    name = "penstock_event_to_score_seconds"
    return {f"{name}_bucket{{{W}, le={seconds}}}": late, f"{name}_count{{{W}}}": total}


CASES = (
    Case(
        alert="PenstockWorkersGone",
        series={f"up{{{PENSTOCK}}}": "1+0x3 0+0x20"},
        at="4m",
        fires=({},),
    ),
    Case(
        alert="PenstockWorkersGone",
        series={f"up{{{PENSTOCK}}}": "0+0x20", 'up{instance="w2:8080", job="penstock"}': "1+0x20"},
        at="4m",
        why="another worker answers",
    ),
    Case(
        alert="PenstockWorkerDown",
        series={f"up{{{PENSTOCK}}}": "1+0x3 0+0x20"},
        at="3m",
        fires=({"instance": "w1:8080", "job": "penstock"},),
    ),
    Case(
        alert="PenstockWorkerDown",
        series={f"up{{{PENSTOCK}}}": "1+0x8 0 0 1+0x10"},
        at="3m",
        why="it was away for half a minute, and another job does not count",
    ),
    Case(
        alert="PenstockWorkerRestarts",
        series={f"process_start_time_seconds{{{PENSTOCK}}}": "10+0x8 130+0x8 250+0x8 400+0x20"},
        at="10m",
        fires=({"instance": "w1:8080", "job": "penstock"},),
    ),
    Case(
        alert="PenstockWorkerRestarts",
        series={f"process_start_time_seconds{{{PENSTOCK}}}": "10+0x8 130+0x40"},
        at="10m",
        why="one restart is a deploy",
    ),
    Case(
        alert="PenstockLoopStuck",
        series={f"penstock_loop_age_seconds{{{W}}}": "0+0x3 0+15x20"},
        at="4m",
        fires=(BY_WORKER,),
    ),
    Case(
        alert="PenstockLoopStuck",
        series={f"penstock_loop_age_seconds{{{W}}}": "0.1+0x6 29+0x14"},
        at="4m",
        why="29 s is not 30",
    ),
    Case(
        alert="PenstockWorkerIdle",
        series={
            f'penstock_lanes{{{W}, state="reading"}}': "3+0x20 0+0x40",
            f'penstock_lanes{{{W}, state="waiting"}}': "0+0x60",
        },
        at="10m",
        fires=(BY_WORKER,),
    ),
    Case(
        alert="PenstockWorkerIdle",
        series={f'penstock_lanes{{{W}, state="reading"}}': "0+0x60"},
        at="10m",
        why="it stands by, and never had any",
    ),
    Case(
        alert="PenstockClockOff",
        series={f"penstock_clock_seconds{{{W}}}": "60+15x20"},
        at="3m",
        fires=(BY_WORKER,),
    ),
    Case(
        alert="PenstockClockOff",
        series={f"penstock_clock_seconds{{{W}}}": "4+15x20"},
        at="3m",
        why="4 s may be the scrape",
    ),
    Case(
        alert="PenstockNearCapacity",
        series={
            f'penstock_stage_seconds_sum{{{W}, stage="poll"}}': "0+0.75x100",
            f"penstock_events_total{{{W}}}": "0+1000x100",
        },
        at="24m",
        fires=(BY_WORKER,),
    ),
    Case(
        alert="PenstockNearCapacity",
        series={
            f'penstock_stage_seconds_sum{{{W}, stage="poll"}}': "0+4x100",
            f"penstock_events_total{{{W}}}": "0+1000x100",
        },
        at="24m",
        why="it waits a quarter of its time",
    ),
    Case(
        alert="PenstockFallingBehind",
        series={
            f'penstock_lag_seconds{{{W}, partition="0"}}': "61+15x60",
            f'penstock_lag_records{{{W}, partition="0"}}': "1000+100x60",
        },
        at="12m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockFallingBehind",
        series={
            f'penstock_lag_seconds{{{W}, partition="0"}}': "900-10x60",
            f'penstock_lag_records{{{W}, partition="0"}}': "90000-1000x60",
        },
        at="12m",
        why="it is behind and catching up",
    ),
    Case(
        alert="PenstockFarBehind",
        series={f'penstock_lag_seconds{{{W}, partition="3"}}': "301+0x60"},
        at="6m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockFarBehind",
        series={f'penstock_lag_seconds{{{W}, partition="3"}}': "299+0x60"},
        at="6m",
        why="not quite five minutes",
    ),
    Case(
        alert="PenstockNoInput",
        series={f"penstock_events_total{{{W}}}": "0+100x40 4000+0x60"},
        at="18m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockNoInput",
        series={f"penstock_events_total{{{W}}}": "4000+0x100"},
        at="18m",
        why="there never were any",
    ),
    Case(
        alert="PenstockPartitionsUnread",
        series={
            f'penstock_lanes{{{W}, state="reading"}}': "3+0x200",
            f'penstock_lanes{{{P}, instance="w2:8080", state="reading"}}': "3+0x80 stale",
        },
        at="24m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockPartitionsUnread",
        series={
            f'penstock_lanes{{{W}, state="reading"}}': "3+0x81 6+0x100",
            f'penstock_lanes{{{P}, instance="w2:8080", state="reading"}}': "3+0x84 stale",
        },
        at="24m",
        why="the other has taken them over, and for three scrapes both said that they had them",
    ),
    Case(
        alert="PenstockLanesWait",
        series={f'penstock_lanes{{{W}, state="waiting"}}': "0+0x3 2+0x20"},
        at="4m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockLanesWait",
        series={f'penstock_lanes{{{W}, state="waiting"}}': "0+0x12 2 2 0+0x20"},
        at="4m",
        why="a rebalance takes half a minute at most",
    ),
    Case(
        alert="PenstockRecoversOften",
        series={f'penstock_recoveries_total{{{W}, cause="NotCommittedError"}}': "0+1x60"},
        at="10m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockRecoversOften",
        series={f'penstock_recoveries_total{{{W}, cause="NotCommittedError"}}': "0+0x20 5+0x40"},
        at="10m",
        why="five in ten minutes are those of one outage",
    ),
    Case(
        alert="PenstockSkipped",
        series={f'penstock_skipped_total{{{W}, partition="0"}}': "0+0x20 500+0x40"},
        at="10m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockSkipped",
        series={f'penstock_skipped_total{{{W}, partition="0"}}': "500+0x60"},
        at="10m",
        why="that was before",
    ),
    Case(
        alert="PenstockDeadLetters",
        series={
            f"penstock_events_total{{{W}}}": "0+1000x60",
            f'penstock_dead_letters_total{{{W}, reason="undecodable"}}': "0+20x60",
        },
        at="10m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockDeadLetters",
        series={
            f"penstock_events_total{{{W}}}": "0+1000x60",
            f'penstock_dead_letters_total{{{W}, reason="undecodable"}}': "0+5x60",
        },
        at="10m",
        why="half a percent",
    ),
    Case(
        alert="PenstockLatencyBudgetBurnsFast",
        series=latency("0+100x200 20000+80x60", "0+100x260"),
        at="62m",
        why="a fifth is late, but over the hour it is 4 %",
    ),
    Case(
        alert="PenstockLatencyBudgetBurnsFast",
        series=latency("0+80x260", "0+100x260"),
        at="62m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockLatencyBudgetBurnsSlowly",
        series=latency("0+92x100", "0+100x100"),
        step="5m",
        at="7h",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockLatencyBudgetBurnsSlowly",
        series=latency("0+92x76 7092+100x30", "0+100x100"),
        step="5m",
        at="7h",
        why="over the six hours it was 7 %, and for the last half hour none: it is over",
    ),
    Case(
        alert="PenstockLatencyObjectiveMissed",
        series={f"penstock_latency_slo_missed{{{W}}}": "0+0x4 1+0x20"},
        at="5m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockLatencyObjectiveMissed",
        series={f"penstock_latency_slo_missed{{{W}}}": "0+0x12 1 1 0+0x10"},
        at="5m",
        why="a burst is over within the time",
    ),
)
