"""A version made of several scores as its parts do, asked one event at a time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import features
from worker.batch import Features
from worker.composite import Composite, load_version, scores_by
from worker.composite_card import read_cards
from worker.config import load_pipeline
from worker.infer import infer, load_model
from worker.plan import FeaturePlan, feature_plan
from worker.repository import fetch, newest, versions
from worker.scoring import Scorer
from worker.yaml_lines import ConfigError

ROOT = Path(__file__).parents[2]
PARTS: dict[str, dict[str, Any]] = {
    "ensemble": {"members": [{"model": "fraud/1", "weight": 1.0}, {"model": "fraud/2", "weight": 3.0}]},
    "cascade": {"members": [{"model": "fraud/1"}, {"model": "fraud/2"}], "above": 0.02},
    "segments": {"members": [{"model": "fraud/1", "when": "amount > 100"}, {"model": "fraud/2"}]},
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    shutil.copytree(ROOT / "models" / "fraud", root / "fraud")
    return root


def composite(models: Path, combine: str, **changes: Any) -> Path:
    """The folder of a version that combines the two shipped ones."""
    folder = models / "fraud" / "10"
    folder.mkdir()
    card = {
        "name": "fraud",
        "version": "10",
        "description": "both",
        "combine": combine,
        **PARTS[combine],
        "output": {"meaning": "probability"},
        **changes,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return folder


@pytest.fixture
def plan() -> FeaturePlan:
    return feature_plan(load_pipeline(ROOT / "pipelines" / "fraud.yaml", {}))


def some(n: int, seed: int = 0) -> Features:
    """Transactions from harmless to surely fraud."""
    rng = np.random.default_rng(seed)
    scalars = np.abs(rng.normal(1, 3, (n, 15)))
    scalars[:, 0] = rng.gamma(2, 60, n)
    return features(scalars)


def row(whole: Features, at: int) -> Features:
    return features(whole.scalars[at : at + 1])


@pytest.mark.parametrize("combine", list(PARTS))
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 90), seed=st.integers(0, 1000))
def test_a_score_is_what_the_parts_say_of_the_event_alone(
    models: Path, plan: FeaturePlan, combine: str, n: int, seed: int
) -> None:
    shutil.rmtree(models / "fraud" / "10", ignore_errors=True)
    version = load_version(composite(models, combine), plan, "cpu")
    one, two = (load_model(models / "fraud" / name, plan, "cpu") for name in "12")
    whole = some(n, seed)

    found = scores_by(version, whole)

    for at in range(n):
        event = row(whole, at)
        first, second = (infer(model, event)[0] for model in (one, two))
        expected = {
            "ensemble": np.float32((np.float64(first) + 3 * np.float64(second)) / 4),
            "cascade": second if first >= np.float32(0.02) else first,
            "segments": first if event.scalars[0, 0] > 100 else second,
        }[combine]
        assert found[at] == expected
    assert isinstance(version, Composite)
    assert version.asked.sum() >= n


def test_a_cascade_asks_the_second_model_for_nothing_else(models: Path, plan: FeaturePlan) -> None:
    version = load_version(composite(models, "cascade"), plan, "cpu")
    first = infer(load_model(models / "fraud" / "1", plan, "cpu"), some(500))

    scores_by(version, some(500))

    assert isinstance(version, Composite)
    assert version.asked.tolist() == [500, int((first >= np.float32(0.02)).sum())]
    assert 0 < version.asked[1] < 500


def test_a_composite_serves_like_any_version(models: Path, plan: FeaturePlan) -> None:
    folder = composite(models, "segments")

    scorer = Scorer(lambda device: load_version(folder, plan, device), "cpu")
    scorer.settle()
    scored = scorer.score(some(30), 0.0)

    assert scorer.device == "cpu"
    assert scorer.card.version == "10"
    assert np.isfinite(scored.scores).all()
    assert newest(models, "fraud") == "10"
    assert versions(models, "fraud") == ["1", "2", "10"]
    assert [card.version for card in read_cards(folder)[1]] == ["1", "2"]


def test_a_composite_is_fetched_with_all_that_it_is_made_of(
    models: Path, tmp_path: Path, plan: FeaturePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    composite(models, "ensemble")
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))

    folder = fetch(f"file://{models}", "fraud", "10")

    shutil.rmtree(models)
    assert len(scores_by(load_version(folder, plan, "cpu"), some(5))) == 5


@pytest.mark.parametrize(
    ("combine", "changes", "said"),
    [
        ("cascade", {"above": None}, "above: found nothing, expected a score for a cascade"),
        ("ensemble", {"above": 0.5}, "above: found 0.5, expected a score for a cascade, and nothing"),
        ("ensemble", {"members": [{"model": "fraud/1"}]}, "members"),
        ("segments", {"members": [{"model": "fraud/1"}, {"model": "fraud/2"}]}, "`when` at every member"),
        (
            "segments",
            {"members": [{"model": "fraud/1", "when": "amont > 1"}, {"model": "fraud/2"}]},
            "a feature, such as amount",
        ),
        (
            "ensemble",
            {"members": [{"model": "fraud/1"}, {"model": "fraud/7"}]},
            "members[1].model: found fraud/7, expected a version in the same repository",
        ),
        ("ensemble", {"output": {"meaning": "remaining_life"}}, "expected a remaining_life"),
    ],
)
def test_a_card_that_cannot_be_says_where(
    models: Path, plan: FeaturePlan, combine: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_version(composite(models, combine, **changes), plan, "cpu")

    assert said.replace("[1]", "") in str(error.value).replace("[1]", "").replace(".1", "")
    assert "\n" not in str(error.value)
