"""Poisson cohorts and what is simulated of absence."""

import numpy as np
import pytest

from fedrec.errors import FedrecError
from fedrec.experiment.cohort import CohortConfig
from fedrec.federated.loop import simulate_dropout
from fedrec.privacy.mechanisms.base import cyclic_cohort, most_participations, poisson_cohort
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.noise import SeededNoise


def test_all_devices_where_no_size_is_given() -> None:
    cohort = CohortConfig()
    assert cohort.rate(7) == 1.0


def test_draws_are_poisson() -> None:
    """Sizes have the binomial's mean and variance, and devices are independent (invariant I13)."""
    population, rounds = 200, 2000
    plan = TrainingPlan(population, 0, CohortConfig(size=20).rate(population), rounds, trains=True)
    drawn = np.zeros((rounds, population))
    for number in range(rounds):
        drawn[number, UserLevel().sample_cohort(plan, number, SeededNoise(1, number))] = 1
    sizes = drawn.sum(1)
    assert abs(sizes.mean() - 20) < 4 * np.sqrt(18 / rounds)
    assert 0.85 < sizes.var() / 18 < 1.15  # a cohort of fixed size would give 0
    pair = np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]
    assert abs(pair) < 4 / np.sqrt(rounds)


@pytest.mark.parametrize(("population", "rate"), [(1, 0.5), (3, 0.999999), (7, 0.3), (40, 0.02), (5, 1e-12), (6, 1.0)])
def test_every_device_is_drawn_at_the_rate_in_every_company(population: int, rate: float) -> None:
    """The first and the last device too; and all pairs of neighbours as often as independent draws would."""
    plan, rounds = TrainingPlan(population, 0, rate, 1, trains=True), 20_000
    drawn, random = np.zeros((rounds, population)), SeededNoise(4, population)
    for number in range(rounds):
        rows = poisson_cohort(plan, random)
        assert np.all(np.diff(rows) > 0)
        drawn[number, rows] = 1
    sigma = np.sqrt(rate * (1 - rate) / rounds) + 1e-12
    assert np.abs(drawn.mean(0) - rate).max() <= 5 * sigma
    both = (drawn[:, 1:] * drawn[:, :-1]).mean(0)
    assert np.abs(both - rate**2).max(initial=0) <= 5 * np.sqrt(rate**2 / rounds) * max(1 - rate**2, 1e-6) ** 0.5 + 1e-9


def test_a_small_cohort_of_many_devices_is_drawn_without_going_through_them() -> None:
    asked = list[int]()

    class Counted(SeededNoise):
        def uniform(self, size: int) -> np.ndarray:
            asked.append(size)
            return super().uniform(size)

    rows = poisson_cohort(TrainingPlan(10**9, 0, 1e-6, 1, trains=True), Counted(1))
    assert 850 < len(rows) < 1150 and rows[-1] < 10**9 and sum(asked) < 2500


def test_gaps_that_do_not_reach_the_end_are_drawn_on_from_the_last_device() -> None:
    """At a tenth, u gives a gap of 1 + floor(log(1 - u) / log(0.9)); of a hundred devices, 38 gaps at a time."""
    said, asked = [0.0, 0.1, 0.15, 0.2], list[int]()

    class Given(SeededNoise):
        def uniform(self, size: int) -> np.ndarray:
            asked.append(size)
            return np.resize(said, size)

    rows = poisson_cohort(TrainingPlan(100, 0, 0.1, 1, trains=True), Given(0))
    expected = np.cumsum([*np.resize([1, 2, 2, 3], 38), *np.resize([1, 2, 2, 3], 38)]) - 1
    assert rows.tolist() == expected[expected < 100].tolist() and asked == [38, 38]


def test_groups_are_the_same_for_ever() -> None:
    """A run that is resumed by a later version must find every device in its old group."""
    plan = TrainingPlan(10, 0, 0.3, 9, trains=True)
    groups = [[2, 4, 5, 7], [1, 8, 9], [0, 3, 6]]
    assert [cyclic_cohort(plan, number, 3).tolist() for number in range(1, 7)] == [*groups, *groups]


@pytest.mark.parametrize(
    ("rounds", "rate", "at_most", "expected"),
    [
        (100, 0.1, None, 20),
        (60, 0.0166, None, 5),
        (30, 0.5, None, 23),
        (1, 1e-4, None, 1),
        (30, 1.0, None, 30),
        (30, 0.5, 7, 7),
        (30, 0.5, 40, 30),
    ],
)
def test_how_often_a_device_takes_part_at_most_is_public(
    rounds: int, rate: float, at_most: int | None, expected: int
) -> None:
    """Quantiles of the binomial, summed by hand; one more would be charged to everybody, one less drops devices."""
    assert most_participations(TrainingPlan(10, 0, rate, rounds, trains=True), at_most) == expected


def test_dropout_removes_its_share_and_repeats_itself() -> None:
    drawn = np.arange(10_000)
    present = simulate_dropout(drawn, 0.3, 5, 2)
    assert 0.68 < len(present) / len(drawn) < 0.72
    assert np.array_equal(present, simulate_dropout(drawn, 0.3, 5, 2))
    assert not np.array_equal(present, simulate_dropout(drawn, 0.3, 5, 3))
    assert simulate_dropout(drawn, 0, 5, 2) is drawn


@pytest.mark.parametrize(
    "fields",
    [{"size": 0}, {"size": float("nan")}, {"dropout": 1.0}, {"dropout": -0.1}, {"deadline_seconds": 0}, {"minimum": 0}],
)
def test_nonsense_is_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(FedrecError, match=f"cohort.{next(iter(fields))}="):
        CohortConfig(**fields)  # type: ignore[arg-type]
