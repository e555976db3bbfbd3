"""Poisson cohorts and what is simulated of absence."""

import numpy as np
import pytest

from fedrec.cohort import Cohort
from fedrec.errors import FedrecError
from fedrec.privacy.base import Plan
from fedrec.privacy.noise import SeededRandom
from fedrec.privacy.user import UserLevel


def test_all_devices_where_no_size_is_given() -> None:
    cohort = Cohort()
    assert cohort.rate(7) == 1.0


def test_draws_are_poisson() -> None:
    """Sizes have the binomial's mean and variance, and devices are independent (notes/privacy.md I13)."""
    population, rounds = 200, 2000
    plan = Plan(population, 0, Cohort(size=20).rate(population), rounds, trains=True)
    drawn = np.zeros((rounds, population))
    for number in range(rounds):
        drawn[number, UserLevel().draw(plan, number, SeededRandom(1, number))] = 1
    sizes = drawn.sum(1)
    assert abs(sizes.mean() - 20) < 4 * np.sqrt(18 / rounds)
    assert 0.85 < sizes.var() / 18 < 1.15  # a cohort of fixed size would give 0
    pair = np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]
    assert abs(pair) < 4 / np.sqrt(rounds)


def test_dropout_removes_its_share_and_repeats_itself() -> None:
    cohort, drawn = Cohort(dropout=0.3), np.arange(10_000)
    present = cohort.present(drawn, 5, 2)
    assert 0.68 < len(present) / len(drawn) < 0.72
    assert np.array_equal(present, cohort.present(drawn, 5, 2))
    assert not np.array_equal(present, cohort.present(drawn, 5, 3))
    assert Cohort().present(drawn, 5, 2) is drawn


@pytest.mark.parametrize(
    "fields",
    [{"size": 0}, {"size": float("nan")}, {"dropout": 1.0}, {"dropout": -0.1}, {"deadline_seconds": 0}, {"minimum": 0}],
)
def test_nonsense_is_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(FedrecError, match=f"cohort.{next(iter(fields))}="):
        Cohort(**fields)  # type: ignore[arg-type]
