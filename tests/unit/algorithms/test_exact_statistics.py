"""Federated EASE and iALS are the centralised ones, on synthetic and on real data, to 1e-6 relative in float64."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedrec.algorithms.gram_matrix import GramMatrix, bounded_gram
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.settings import load
from simulations.paper.exact import apart
from tests.support.tiny import FREE, SMALL, small

NEAR = 1e-6
Shared = Callable[[str], Path]


def bounded_gram_of(
    weighed: float, history: NDArray[np.int32], head: NDArray[np.int64], items: int, exponent: float, shortest: int
) -> NDArray[np.float32]:
    """Weigh by another exponent than was asked for."""
    return bounded_gram(history, head, items, weighed)


def check(path: Path, *overrides: str) -> None:
    found = apart(load([*overrides, "privacy=none"]), path)
    assert 0 < found.length < NEAR and 0 < found.largest < NEAR


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=ease", "algorithm.head=25"],
        ["model=ease", "algorithm.head=25", "algorithm.user_exponent=0.5", "algorithm.regularization=0.1"],
        ["model=ials", "model.dim=6", "rounds=4"],
    ],
)
def test_on_synthetic_data(tmp_path: Path, overrides: list[str]) -> None:
    check(tmp_path, *FREE, *overrides)


@pytest.mark.parametrize("overrides", [["model=ease"], ["model=ials", "rounds=1"]])
def test_on_ml_100k(tmp_path: Path, shared: Shared, overrides: list[str]) -> None:
    check(tmp_path, "dataset=ml-100k", f"dataset.path={shared('ml-100k.zip')}", *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["model=ease"], ["model=ials", "rounds=2"]])
def test_on_ml_1m(tmp_path: Path, shared: Shared, overrides: list[str]) -> None:
    """Rounds are alike: two of iALS say what ten do, whose figures `simulations.paper.exact` prints."""
    check(tmp_path, "dataset=ml-1m", f"dataset.path={shared('ml-1m.zip')}", *overrides)


def test_another_problem_is_seen_to_be_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: devices that weigh 1 instead of 1/n solve something else."""
    monkeypatch.setattr("fedrec.algorithms.gram_matrix.bounded_gram", partial(bounded_gram_of, 0.0))
    found = apart(load([*FREE, "model=ease", "algorithm.head=25"]), tmp_path)
    assert found.length > 0.01


def test_models_without_a_closed_form_are_named(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match="ItemCounts has no centralised solution here"):
        apart(load([*FREE, "model=popularity"]), tmp_path)


def test_long_histories_may_weigh_more_only_without_privacy() -> None:
    small("model=ease", "algorithm.user_exponent=0.5")
    small("model=ease", "algorithm.user_exponent=1.5", "privacy=user", base=SMALL)
    with pytest.raises(RefusedError, match=r"algorithm\.user_exponent=0\.5 leaves"):
        small("model=ease", "algorithm.user_exponent=0.5", "privacy=user", base=SMALL)


@pytest.mark.parametrize("exponent", [-0.1, 2.1, float("nan")])
def test_exponents_that_make_no_sense_are_named(exponent: float) -> None:
    with pytest.raises(FedrecError, match=r"algorithm\.user_exponent="):
        GramMatrix(user_exponent=exponent)


def test_a_history_of_n_weighs_n_to_the_exponent() -> None:
    history, head = np.array([1, 2, 4, 4], np.int32), np.arange(6)
    for exponent in (0.0, 0.5, 1.0, 2.0):
        flat = np.asarray(bounded_gram(history, head, 6, exponent))
        assert np.count_nonzero(flat) == 6
        np.testing.assert_allclose(flat[flat > 0], 3**-exponent)
