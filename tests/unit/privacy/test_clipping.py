"""Whole and split clipping: bounds of any update and of any node's sum, equal to a slow oracle, stacked or not."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.settings import load
from fedrec.messages import ModelUpdate
from fedrec.privacy.clipping import NormClipper, check_groups, group_of
from fedrec.privacy.mechanisms.user import UserLevel
from tests.support.tiny import SMALL

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
RULES = [NormClipper(0.7), NormClipper(2.0, "split", 0.3)]


def update_of(item: np.ndarray, dense: np.ndarray, count: int = 1) -> ModelUpdate:
    return ModelUpdate({"item.weight": item.astype(np.float32), "layers.0.weight": dense.astype(np.float32)}, count)


def oracle(update: ModelUpdate, rule: NormClipper) -> dict[str, np.ndarray]:
    """Clip in extended precision, one group after the other."""
    wide = {name: array.astype(np.longdouble) for name, array in update.arrays.items()}
    if not all(np.isfinite(array).all() for array in wide.values()):
        return {name: np.zeros(array.shape) for name, array in wide.items()}
    groups: Any = [list(wide)] if rule.grouping == "whole" else [["item.weight"], ["layers.0.weight"]]
    bounds = [rule.norm] if rule.grouping == "whole" else [rule.norm * 0.7**0.5, rule.norm * 0.3**0.5]
    for names, bound in zip(groups, bounds, strict=True):
        norm = math.sqrt(sum((wide[name] ** 2).sum() for name in names))
        for name in names:
            wide[name] = wide[name] * min(1.0, bound / norm) if norm > 0 else wide[name]
    return {name: array.astype(np.float64) for name, array in wide.items()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.grouping)
@settings(deadline=None, max_examples=200)
@given(item=arrays(np.float32, (3, 2), elements=FLOATS), dense=arrays(np.float32, 4, elements=FLOATS))
def test_every_update_ends_within_its_bounds(rule: NormClipper, item: np.ndarray, dense: np.ndarray) -> None:
    """Invariant M2: NaN, infinity, zero, denormal numbers and the largest ones included."""
    update = update_of(item, dense)
    clipped = rule.clipped(update)
    assert clipped.finite() and clipped.norm() <= rule.norm * (1 + 1e-6)
    expected = oracle(update, rule)
    for name, array in clipped.arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-44)
    for group, square in rule.squared_norms(clipped).items():
        assert math.sqrt(square[0]) <= rule.bounds[group] * (1 + 1e-6)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.grouping)
def test_stacked_factors_are_those_of_one_device_at_a_time(rule: NormClipper) -> None:
    rng = np.random.default_rng(0)
    updates = [update_of(rng.normal(size=(3, 2)) * s, rng.normal(size=4) / s) for s in (0.01, 0.5, 3.0, 1e20)]
    updates.append(update_of(np.full((3, 2), np.nan), np.ones(4)))
    stacked = {group: np.concatenate([rule.squared_norms(u)[group] for u in updates]) for group in rule.bounds}
    factors = rule.factors(stacked)
    for place, update in enumerate(updates):
        alone = rule.clipped(update)
        for name, array in update.arrays.items():
            factor = factors[group_of(name, rule.grouping)][place]
            expected = np.nan_to_num(array).astype(np.float64) * factor
            np.testing.assert_allclose(alone.arrays[name], expected, rtol=1e-6, atol=1e-30)


def test_split_bounds_add_up_to_the_clip() -> None:
    rule = NormClipper(2.0, "split", 0.25)
    assert rule.bounds == pytest.approx({"items": 3**0.5, "dense": 1.0})
    assert math.hypot(*rule.bounds.values()) == pytest.approx(rule.norm)


@pytest.mark.parametrize("model", ["mf", "neumf", "content"])
def test_item_tables_are_known_by_their_names(model: str) -> None:
    """The grouping rests on names: every shared array with a row an item starts with "item", and no other does."""
    experiment = load([*SMALL, f"model={model}", "privacy=none"]).experiment
    dataset = load_dataset(experiment)
    for name, array in experiment.build_model(dataset.catalogue).shared_arrays().items():
        assert (group_of(name, "split") == "items") == (array.shape[0] == len(dataset.catalogue)), name


def calibrated(*overrides: str) -> Experiment:
    experiment = load([*SMALL, *overrides]).experiment
    return experiment.calibrated(load_dataset(experiment))


def test_split_is_asked_for_by_its_own_key_and_the_key_of_the_norm_names_it() -> None:
    made: Any = calibrated("model=neumf", "privacy=user", "privacy.clipping=split").mechanism
    assert made.clipping == "split" and made.clip == 1.0
    for word in ("split", "whole"):
        with pytest.raises(FedrecError, match=rf"the clip is a number.* how to clip is privacy\.clipping={word}"):
            load(["model=neumf", "privacy=user", f"privacy.clip={word}"])


def test_split_costs_what_whole_costs() -> None:
    whole: Any = calibrated("model=neumf", "privacy=user").mechanism
    split: Any = calibrated("model=neumf", "privacy=user", "privacy.clipping=split").mechanism
    assert split.noise_multiplier == whole.noise_multiplier


@pytest.mark.parametrize("privacy", ["interaction", "gateway", "none"])
def test_split_is_refused_by_name_where_examples_are_clipped(privacy: str) -> None:
    with pytest.raises(RefusedError, match=r"privacy\.clipping=split: (Interaction|Gateway|No)\w+ bounds an example's"):
        load([*SMALL, "model=neumf", f"privacy={privacy}", "privacy.clipping=split"])


def test_split_is_refused_where_there_is_one_group() -> None:
    with pytest.raises(RefusedError, match="MatrixFactorization shares item rows only"):
        calibrated("model=mf", "privacy=user", "privacy.clipping=split")
    with pytest.raises(RefusedError, match="Odd shares dense parameters only"):
        check_groups("split", {"layer.weight": np.zeros(1, np.float32)}, "Odd")
    assert calibrated("model=ease", "privacy=user", "privacy.clipping=split")


@pytest.mark.parametrize(("field", "value"), [("clipping", "spilt"), ("dense_share", 0.0), ("dense_share", 1.0)])
def test_impossible_settings_are_named(field: str, value: Any) -> None:
    with pytest.raises(FedrecError, match=rf"privacy\.{field}={value}"):
        UserLevel(**{field: value})
