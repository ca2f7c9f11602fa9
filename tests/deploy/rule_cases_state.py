"""The same for the rules about state, Redis, models and GPUs."""

from __future__ import annotations

from tests.deploy.rule_cases import BY_GPU, BY_PIPELINE, BY_WORKER, GPU, REDIS, Case, W

BY_REDIS = {"instance": "redis-exporter:9121", "job": "redis"}
OTHER = 'pipeline="fraud", instance="w2:8080", job="penstock"'

CASES = (
    Case(
        alert="PenstockStateNotWritten",
        series={f'penstock_state_writes_total{{{W}, result="unavailable"}}': "0+1x40"},
        at="5m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockStateNotWritten",
        series={
            f'penstock_state_writes_total{{{W}, result="unavailable"}}': "0+0x40",
            f'penstock_state_writes_total{{{W}, result="ok"}}': "0+15x40",
        },
        at="5m",
        why="those are the good ones",
    ),
    Case(
        alert="PenstockIncompleteWindows",
        series={
            f"penstock_incomplete_total{{{W}}}": "0+6x200",
            f"penstock_scores_total{{{W}}}": "0+100x200",
        },
        at="32m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockIncompleteWindows",
        series={
            f"penstock_incomplete_total{{{W}}}": "0+4x200",
            f"penstock_scores_total{{{W}}}": "0+100x200",
        },
        at="32m",
        why="4 % are the busiest keys",
    ),
    Case(
        alert="PenstockRedisDown",
        series={f"redis_up{{{REDIS}}}": "1 1 0+0x20"},
        at="2m",
        fires=(BY_REDIS,),
    ),
    Case(
        alert="PenstockRedisDown",
        series={f"redis_up{{{REDIS}}}": "1 1 stale", f"up{{{REDIS}}}": "1 1 0+0x20"},
        at="2m",
        fires=(BY_REDIS,),
    ),
    Case(
        alert="PenstockRedisDown",
        series={f"redis_up{{{REDIS}}}": "1+0x6 0 1+0x20"},
        at="2m",
        why="one scrape",
    ),
    Case(
        alert="PenstockRedisMemory",
        series={
            f"redis_memory_used_bytes{{{REDIS}}}": "900+0x60",
            f"redis_memory_max_bytes{{{REDIS}}}": "1000+0x60",
        },
        at="6m",
        fires=(BY_REDIS,),
    ),
    Case(
        alert="PenstockRedisMemory",
        series={
            f"redis_memory_used_bytes{{{REDIS}}}": "900+0x60",
            f"redis_memory_max_bytes{{{REDIS}}}": "0+0x60",
        },
        at="6m",
        why="0 means that there is no limit",
    ),
    Case(
        alert="PenstockRedisEvicts",
        series={f"redis_evicted_keys_total{{{REDIS}}}": "0+0x4 3+0x20"},
        at="3m",
        fires=(BY_REDIS,),
    ),
    Case(
        alert="PenstockRedisEvicts",
        series={f"redis_evicted_keys_total{{{REDIS}}}": "3+0x20"},
        at="3m",
        why="that was before, and is somebody else's key perhaps",
    ),
    Case(
        alert="PenstockDrift",
        series={f'penstock_drift_alarm{{{W}, feature="amount", version="2", kind="PSI"}}': "0+0x3 1+0x20"},
        at="4m",
        fires=({**BY_PIPELINE, "feature": "amount", "version": "2", "kind": "PSI"},),
    ),
    Case(
        alert="PenstockDrift",
        series={f'penstock_drift_alarm{{{W}, feature="amount", version="2", kind="PSI"}}': "1+0x3 0+0x20"},
        at="4m",
        why="it was cleared",
    ),
    Case(
        alert="PenstockBadReadings",
        series={
            f'penstock_quality_total{{{W}, field="pressure", kind="RANGE"}}': "0+10x200",
            f"penstock_events_total{{{W}}}": "0+100x200",
        },
        at="22m",
        fires=({**BY_PIPELINE, "field": "pressure", "kind": "RANGE"},),
    ),
    Case(
        alert="PenstockBadReadings",
        series={
            f'penstock_quality_total{{{W}, field="pressure", kind="RANGE"}}': "0+3x200",
            f'penstock_quality_total{{{W}, field="pressure", kind="JUMP"}}': "0+3x200",
            f"penstock_events_total{{{W}}}": "0+100x200",
        },
        at="22m",
        why="3 % of each kind",
    ),
    Case(
        alert="PenstockGuardBroken",
        series={f'penstock_guard_trips_total{{{W}, guard="alert_ratio"}}': "0+0x8 1+0x20"},
        at="4m",
        fires=({**BY_PIPELINE, "guard": "alert_ratio"},),
    ),
    Case(
        alert="PenstockGuardBroken",
        series={f'penstock_guard_trips_total{{{W}, guard="alert_ratio"}}': "1+0x40"},
        at="4m",
        why="that was before",
    ),
    Case(
        alert="PenstockModelRefused",
        series={f"penstock_model_refused{{{W}}}": "0+0x4 1+0x20"},
        at="4m",
        fires=(BY_WORKER,),
    ),
    Case(
        alert="PenstockModelRefused",
        series={f"penstock_model_refused{{{W}}}": "1+0x4 0+0x20"},
        at="4m",
        why="the change was taken back",
    ),
    Case(
        alert="PenstockRulesStandIn",
        series={f"penstock_degradation{{{W}}}": "0+0x4 4+0x20"},
        at="4m",
        fires=(BY_WORKER,),
    ),
    Case(
        alert="PenstockRulesStandIn",
        series={f"penstock_degradation{{{W}}}": "3+0x20"},
        at="4m",
        why="that is the CPU",
    ),
    Case(
        alert="PenstockGpuLost",
        series={f"penstock_degradation{{{W}}}": "0+0x4 3+0x20"},
        at="4m",
        fires=(BY_WORKER,),
    ),
    Case(
        alert="PenstockGpuLost", series={f"penstock_degradation{{{W}}}": "0+0x40"}, at="4m", why="all is well"
    ),
    Case(
        alert="PenstockDevicesDiffer",
        series={
            f'penstock_device{{{W}, device="cuda:0"}}': "1+0x60",
            f'penstock_device{{{OTHER}, device="cpu"}}': "1+0x60",
        },
        at="12m",
        fires=(BY_PIPELINE,),
    ),
    Case(
        alert="PenstockDevicesDiffer",
        series={
            f'penstock_device{{{W}, device="cpu"}}': "1+0x60",
            f'penstock_device{{{OTHER}, device="cpu"}}': "1+0x60",
            'penstock_device{pipeline="pump", instance="w2:8080", job="penstock", device="cuda:0"}': "1+0x60",
        },
        at="12m",
        why="two pipelines may well differ",
    ),
    Case(
        alert="PenstockGpuErrors",
        series={f"DCGM_FI_DEV_XID_ERRORS{{{GPU}}}": "0+0x4 79+0x20"},
        at="3m",
        fires=(BY_GPU,),
    ),
    Case(
        alert="PenstockGpuErrors", series={f"DCGM_FI_DEV_XID_ERRORS{{{GPU}}}": "0+0x20"}, at="3m", why="none"
    ),
    Case(
        alert="PenstockGpuMemory",
        series={f"DCGM_FI_DEV_FB_USED{{{GPU}}}": "97+0x40", f"DCGM_FI_DEV_FB_FREE{{{GPU}}}": "3+0x40"},
        at="6m",
        fires=(BY_GPU,),
    ),
    Case(
        alert="PenstockGpuMemory",
        series={f"DCGM_FI_DEV_FB_USED{{{GPU}}}": "90+0x40", f"DCGM_FI_DEV_FB_FREE{{{GPU}}}": "10+0x40"},
        at="6m",
        why="a tenth is left",
    ),
)
