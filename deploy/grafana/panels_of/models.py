"""Models: versions, what they are given, how they compare, how good they were."""

from __future__ import annotations

from panels_of.panel import Dashboard, P, gauge, panel, rate

_OF = f'{P}, segment="all"'

MODELS = Dashboard(
    name="models",
    uid="penstock-models",
    description="Which versions score, what they are given, how they compare, and how good they were.",
    rows=(
        (
            "Versions",
            (
                panel(
                    "Workers by version and role",
                    "short",
                    "How many serve it, as champion, canary or shadow.",
                    (
                        gauge("model_serving", by="pipeline, version, role", of="sum"),
                        "{{pipeline}} {{version}} {{role}}",
                    ),
                ),
                panel(
                    "Workers by device",
                    "short",
                    "What gives the scores at present.",
                    (gauge("device", by="pipeline, device", of="sum"), "{{pipeline}} {{device}}"),
                ),
                panel(
                    "Degradation and refusals",
                    "short",
                    "0 the model on its device, 3 its spare on the CPU, 4 rules; refused: 1.",
                    (gauge("degradation"), "{{pipeline}}"),
                    (gauge("model_refused"), "{{pipeline}} refuses a version"),
                ),
                panel(
                    "Events by member of a composite",
                    "ops",
                    "What a cascade saves.",
                    (rate("model_asked_total", by="pipeline, member"), "{{pipeline}} {{member}}"),
                ),
            ),
        ),
        (
            "Drift and quality",
            (
                panel(
                    "PSI by feature",
                    "short",
                    "Of the last window against the training rows.",
                    (
                        gauge("drift_psi", by="pipeline, feature, version"),
                        "{{pipeline}} {{feature}} {{version}}",
                    ),
                    warn_at=0.25,
                ),
                panel(
                    "Mean rank by feature",
                    "short",
                    "Among the training rows; one half is usual.",
                    (
                        gauge("drift_mean_rank", by="pipeline, feature, version"),
                        "{{pipeline}} {{feature}} {{version}}",
                    ),
                ),
                panel(
                    "Alerts of drift that stand",
                    "short",
                    "1 while it stands.",
                    (
                        gauge("drift_alarm", by="pipeline, feature, version, kind"),
                        "{{pipeline}} {{feature}} {{version}} {{kind}}",
                    ),
                    warn_at=1,
                ),
                panel(
                    "Bad readings a minute",
                    "short",
                    "Readings that their sensor cannot mean.",
                    (
                        f"60 * {rate('quality_total', by='pipeline, field, kind')}",
                        "{{pipeline}} {{field}} {{kind}}",
                    ),
                ),
            ),
        ),
        (
            "Canary or shadow against the version that serves",
            (
                panel(
                    "Events scored by both",
                    "short",
                    "Since the trial began.",
                    (
                        gauge("challenger_events", by="pipeline, version", of="sum"),
                        "{{pipeline}} {{version}}",
                    ),
                ),
                panel(
                    "Rank correlation",
                    "short",
                    "Spearman's rho of their scores.",
                    (
                        gauge("challenger_rank_correlation", by="pipeline, version", of="min"),
                        "{{pipeline}} {{version}}",
                    ),
                    negative=True,
                ),
                panel(
                    "Shares: flipped, alerts, errors",
                    "percentunit",
                    "Of events: only one raises an alert, it raises one, it has no score.",
                    *(
                        (
                            gauge(f"challenger_{name}_share", by="pipeline, version"),
                            f"{{{{pipeline}}}} {{{{version}}}} {name}",
                        )
                        for name in ("flipped", "alert", "error")
                    ),
                ),
                panel(
                    "PSI of its scores",
                    "short",
                    "Against those of the version that serves.",
                    (gauge("challenger_score_psi", by="pipeline, version"), "{{pipeline}} {{version}}"),
                ),
                panel(
                    "Guards broken",
                    "short",
                    "Since the workers began.",
                    (gauge("guard_trips_total", by="pipeline, guard", of="sum"), "{{pipeline}} {{guard}}"),
                ),
            ),
        ),
        (
            "Truth",
            (
                panel(
                    "Precision and recall",
                    "percentunit",
                    "Of the labelled events of the window, by the threshold of a severity.",
                    *(
                        (
                            f"max by (pipeline, version, severity) (penstock_truth_{name}{{{_OF}}})",
                            f"{{{{pipeline}}}} {{{{version}}}} {{{{severity}}}} {name}",
                        )
                        for name in ("precision", "recall")
                    ),
                ),
                panel(
                    "Average precision, AUC, yield, calibration error",
                    "percentunit",
                    "Of the labelled events of the window.",
                    *(
                        (
                            f"max by (pipeline, version) (penstock_truth_{name}{{{_OF}}})",
                            f"{{{{pipeline}}}} {{{{version}}}} {name.replace('_', ' ')}",
                        )
                        for name in ("average_precision", "auc", "alert_yield", "calibration_error")
                    ),
                ),
                panel(
                    "Scored and labelled",
                    "short",
                    "Events of the window.",
                    *(
                        (
                            f"max by (pipeline, version) (penstock_truth_{name}{{{_OF}}})",
                            f"{{{{pipeline}}}} {{{{version}}}} {name}",
                        )
                        for name in ("scored", "labelled")
                    ),
                ),
                panel(
                    "Value saved and missed",
                    "short",
                    "Of the positives that reached a threshold, and of those that did not.",
                    *(
                        (
                            f"max by (pipeline, version, severity) (penstock_truth_value_{name}{{{_OF}}})",
                            f"{{{{pipeline}}}} {{{{version}}}} {{{{severity}}}} {name}",
                        )
                        for name in ("saved", "missed")
                    ),
                ),
                panel(
                    "Scores, alerts and labels joined",
                    "ops",
                    "By what became of them.",
                    (
                        rate("truth_records_total", by="pipeline, kind, result"),
                        "{{pipeline}} {{kind}} {{result}}",
                    ),
                ),
                panel(
                    "Topics of the truth read again",
                    "short",
                    "Times that the store had lost some of its cases.",
                    (gauge("truth_read_again_total", of="sum"), "{{pipeline}}"),
                ),
            ),
        ),
    ),
)
