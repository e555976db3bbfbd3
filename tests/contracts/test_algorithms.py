"""What every algorithm promises, for every yaml under conf/algorithm with the models that it is for."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrec.errors import RefusedError
from fedrec.experiment.instantiate import instantiate
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.testing import AlgorithmContract
from fedrec.testing.algorithms import (
    ITEMS,
    MECHANISMS,
    PUBLIC,
    AlgorithmCase,
    check_interaction_bound,
    check_release_bound,
    check_user_bound,
    used_items,
)

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(p.stem for p in (CONF / "algorithm").glob("*.yaml"))
MODELS = {
    "counts": ["popularity"],
    "gram": ["ease", "hybrid"],
    "order": ["order"],
    "neighbours": ["item_knn"],
    "ials": ["ials"],
    "sequences": ["sasrec", "two_tower", "text_sasrec"],
}
PAIRS = [(name, model) for name in NAMES for model in MODELS.get(name, ["mf", "content"])]
SMALLER: dict[str, dict[str, Any]] = {
    "sasrec": {"dim": 4, "window": 3},
    "two_tower": {"dim": 4, "rank": 2, "window": 3},
    "text_sasrec": {"shape": {"_target_": "fedrec.models.sasrec.Shape", "dim": 4, "window": 3, "blocks": 1}, "rank": 2},
    "mf": {"dim": 3},
    "ials": {"dim": 3, "unobserved_weight": 0.3, "regularization": 0.01},
    **{model: {"head": 5} for model in ("ease", "hybrid", "item_knn")},
    "order": {"head": 5, "encoder": None},
}
HEADS: dict[str, dict[str, Any]] = {name: {"head": 5} for name in ("gram", "order", "neighbours")}
HEADS["sequences"] = {"decay_over": 4, "negatives": 6}
DOUBLE = {"ials": {"squares", "vectors", "uses", "gram", "item_factors"}, "gram": {"gram"}, "neighbours": {"gram"}}
PLAN = TrainingPlan(population=60, interactions=900, cohort_rate=1.0, rounds=2, trains=False)
HISTORIES = hnp.arrays(np.int32, st.integers(0, 40), elements=st.integers(0, ITEMS - 1))


def node(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


@cache
def case_of(name: str, model: str, shortest: int | None = 3) -> AlgorithmCase:
    settings = {**node("algorithm", name), **HEADS.get(name, {})}
    if "shortest_history" in settings:
        settings["shortest_history"] = shortest  # `auto` waits for the sizes of a data set
    algorithm = instantiate(settings, "algorithm")
    build = partial(instantiate, {**node("model", model)["model"], **SMALLER.get(model, {})}, "model")
    return AlgorithmCase(algorithm.with_catalogue(PUBLIC), lambda public: build()(public), name)


def bounded(unit: Unit) -> Iterator[tuple[str, str]]:
    """The pairs whose contribution has a finite bound at this unit."""
    for pair in PAIRS:
        limit = case_of(*pair).algorithm.sensitivity(unit)
        if limit is not None and math.isfinite(limit):
            yield pair


class TestAlgorithms(AlgorithmContract):
    @pytest.fixture(params=PAIRS, ids=lambda pair: " on ".join(pair))
    def case(self, request: pytest.FixtureRequest) -> AlgorithmCase:
        return case_of(*request.param)

    @pytest.fixture(params=[0])  # hypothesis draws the others, below
    def history(self, request: pytest.FixtureRequest) -> np.ndarray:
        return np.empty(0, np.int32)

    def test_double_precision_is_where_it_is_needed(self, case: AlgorithmCase) -> None:
        double = DOUBLE.get(case.name, set[str]())
        assert all((a.dtype == np.float64) == (n in double) for n, a in case.states[-1].items())
        for one in case.contribute(case.states[0], [], []):
            assert all((a.dtype == np.float64) == (n in double) for n, a in one.update.arrays.items())


def test_what_has_no_bound_gets_no_noise() -> None:
    unbounded = {
        (name, unit)
        for name, model in PAIRS
        for unit in (Unit.USER, Unit.INTERACTION)
        if case_of(name, model).algorithm.sensitivity(unit) is None
    }
    assert unbounded == {
        ("gram", "interaction"),
        ("neighbours", "interaction"),
        ("order", "interaction"),
        ("ials", "user"),
        ("ials", "interaction"),
        ("sequences", "interaction"),
    }
    for _, unit in unbounded:
        with pytest.raises(RefusedError, match="no argument"):
            replace(MECHANISMS[unit], noise_multiplier=None).calibrated(PLAN, None)  # type: ignore[type-var]


@pytest.mark.parametrize(("name", "model"), list(bounded(Unit.USER)))
@settings(max_examples=60, deadline=None)
@given(history=HISTORIES)
def test_one_user_adds_no_more_than_the_bound(name: str, model: str, history: np.ndarray) -> None:
    # Without a bound on one item too: it would hide a statistic that is too long.
    check_user_bound(case_of(name, model, None), history)
    case = case_of(name, model)
    check_user_bound(case, history)
    for state in case.states[:-1]:
        norm = case.of_history(state, history, Unit.USER).update.norm()
        silent = not np.isin(history, used_items(case, state)).any() or "counts" not in case.algorithm.shapes(state)
        assert norm > 0 or silent  # pairs may lie too far apart, targets have too little before them


@pytest.mark.parametrize(("name", "model"), list(bounded(Unit.INTERACTION)))
@settings(max_examples=60, deadline=None)
@given(history=HISTORIES, data=st.data())
def test_one_interaction_moves_no_more_than_the_bound(
    name: str, model: str, history: np.ndarray, data: st.DataObject
) -> None:
    check_interaction_bound(case_of(name, model), history, data.draw(st.integers(0, max(len(history) - 1, 0))))


@pytest.mark.parametrize(
    ("name", "model"), [pair for pair in PAIRS if pair[0] in ("counts", "gram", "neighbours", "order", "fedsgd")]
)
@settings(max_examples=25, deadline=None)
@given(history=HISTORIES)
def test_what_leaves_a_device_at_user_level_is_within_the_clip(name: str, model: str, history: np.ndarray) -> None:
    check_release_bound(case_of(name, model), history)
