"""Draws: who takes part, which examples, which negatives, which noise. Each follows its law and nobody else's data."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrec.privacy.mechanisms.base import cyclic_cohort, most_participations, poisson_cohort
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, TrainingPlan
from fedrec.privacy.noise import SeededNoise, make_noise_source
from fedrec.rng import CounterRNG, Stream, normal, random_below, splitmix64, uniform
from fedrec.training.batches import (
    Histories,
    LocalTrainingConfig,
    NegativeSampler,
    Slots,
    epochs,
    first_private,
    poisson,
    samples,
    shuffled,
    uniform_negatives,
)

ITEMS = 12
LINES = st.lists(st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=ITEMS), min_size=1, max_size=5)
PLAN = TrainingPlan(population=400, interactions=4000, cohort_rate=0.05, rounds=30, trains=True)


def stacked(lines: list[list[int]], first_user: int = 0) -> Histories:
    width = max(len(line) for line in lines)
    items = np.zeros((len(lines), width), np.int32)
    for row, line in zip(items, lines, strict=True):
        row[: len(line)] = line
    users, sizes = np.arange(first_user, first_user + len(lines)), np.array([len(line) for line in lines])
    return Histories(users, items, np.ones(items.shape, np.float32), sizes)


@given(st.integers(1, 300), st.floats(0.001, 1), st.integers(0, 10**6))
def test_a_poisson_cohort_is_a_set_of_devices_in_order(population: int, rate: float, seed: int) -> None:
    plan = replace(PLAN, population=population, cohort_rate=rate)
    rows = poisson_cohort(plan, SeededNoise(seed))
    assert (np.diff(rows) > 0).all() and (len(rows) == 0 or (rows[0] >= 0 and rows[-1] < population))
    assert rate < 1 or len(rows) == population


def test_each_device_is_drawn_at_the_rate_and_independently_of_its_neighbour() -> None:
    rounds, noise = 3000, SeededNoise(5)
    drawn = np.zeros((rounds, PLAN.population), bool)
    for row in drawn:
        row[poisson_cohort(PLAN, noise)] = True
    deviation = math.sqrt(0.05 * 0.95 / rounds)
    assert np.abs(drawn.mean(0) - 0.05).max() < 5 * deviation
    assert (
        stats.kstest(drawn.sum(1) + np.random.default_rng(0).random(rounds) - 0.5, "norm", (20, math.sqrt(19))).pvalue
        > 1e-6
    )  # type: ignore[attr-defined]
    together = (drawn[:, :-1] & drawn[:, 1:]).mean(0)
    assert abs(together.mean() - 0.05**2) < 5 * math.sqrt(0.05**2 / rounds / (PLAN.population - 1))
    assert abs(np.corrcoef(drawn[:-1].sum(1), drawn[1:].sum(1))[0, 1]) < 0.1, "rounds are apart"


@given(st.integers(1, 80), st.integers(1, 10), st.integers(1, 100))
def test_turns_are_groups_of_nearly_equal_size_that_share_nobody(population: int, separation: int, start: int) -> None:
    plan = replace(PLAN, population=population)
    groups = [cyclic_cohort(plan, start + turn, separation).tolist() for turn in range(separation)]
    assert sorted(row for group in groups for row in group) == list(range(population))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert cyclic_cohort(plan, start + separation, separation).tolist() == groups[0], "and a turn comes again"


def test_a_device_takes_part_no_oftener_than_it_is_charged_for() -> None:
    assert most_participations(PLAN, None) == stats.binom.ppf(0.999, 30, 0.05)
    assert most_participations(PLAN, 2) == 2 and most_participations(PLAN, 99) == 30
    assert most_participations(replace(PLAN, cohort_rate=1.0), None) == 30
    assert most_participations(replace(PLAN, cohort_rate=1e-9), None) == 1


@given(LINES, st.integers(0, 5), st.integers(1, ITEMS))
def test_an_epoch_is_each_devices_own_rows_in_some_order(lines: list[list[int]], number: int, batch: int) -> None:
    histories = stacked(lines)
    order = shuffled(CounterRNG(3), histories, number, batch)
    for row, line in zip(order, lines, strict=True):
        assert sorted(row[: len(line)].tolist()) == list(range(len(line)))


def test_every_order_is_as_likely_as_any_other() -> None:
    histories = stacked([[1, 2, 3]] * 4000)
    found = Counter(map(tuple, shuffled(CounterRNG(1, 1), histories, 0, 2).tolist()))
    assert len(found) == 6 and stats.chisquare(list(found.values())).pvalue > 1e-6


@given(LINES, st.floats(0.01, 1), st.integers(0, 3))
def test_a_sample_holds_a_devices_rows_once_each_and_only_real_ones(
    lines: list[list[int]], rate: float, number: int
) -> None:
    order, count = poisson(CounterRNG(7), stacked(lines), number, rate)
    for row, some, line in zip(order, count.tolist(), lines, strict=True):
        assert sorted(row.tolist()) == list(range(order.shape[1])) and some <= len(line)
        assert (row[:some] < len(line)).all() and (np.diff(row[:some]) > 0).all()
    assert rate < 1 or count.tolist() == [len(line) for line in lines]


@given(LINES, st.integers(0, 4), st.integers(0, 50))
def test_negatives_lie_outside_of_what_a_device_used_while_anything_is_left(
    lines: list[list[int]], k: int, seed: int
) -> None:
    histories = stacked(lines)
    drawn = NegativeSampler(ITEMS, Slots()).draw(CounterRNG(seed), histories, 0, k)
    assert drawn.shape == (*histories.items.shape, k) and ((drawn >= 0) & (drawn < ITEMS)).all()
    for row, line in zip(drawn, lines, strict=True):
        used = set(line) if len(line) < ITEMS else set[int]()
        assert not used & set(row[: len(line)].ravel().tolist())


@settings(max_examples=60)
@given(LINES, st.integers(0, 3), st.integers(1, 3))
def test_draws_of_a_device_do_not_hang_on_its_company(lines: list[list[int]], number: int, k: int) -> None:
    random, sampler, together = CounterRNG(11, 2), NegativeSampler(ITEMS), stacked(lines)
    many = sampler.draw(random, together, number, k), uniform_negatives(random, together, number, ITEMS, k)
    for user, line in enumerate(lines):
        alone = stacked([line], user)
        one = NegativeSampler(ITEMS).draw(random, alone, number, k), uniform_negatives(random, alone, number, ITEMS, k)
        for all_of_them, its_own in zip(many, one, strict=True):
            assert np.array_equal(all_of_them[user, : len(line)], its_own[0])


@given(LINES, st.integers(1, 4), st.integers(1, 5))
def test_all_steps_of_an_epoch_take_each_example_once(lines: list[list[int]], batch: int, passes: int) -> None:
    settings_ = LocalTrainingConfig(epochs=passes, batch_size=batch)
    histories = stacked(lines)
    made = list(epochs(histories, settings_, 2, NegativeSampler(ITEMS), CounterRNG(1)))
    assert len(made) == passes
    for one in made:
        for device, line in enumerate(lines):
            taken = [row for slots in one.steps() for row in one.order[device, : one.count[device]][slots].tolist()]
            assert sorted(taken) == list(range(len(line)))
        assert all(slots.stop - slots.start == batch for slots in one.steps())


def test_a_step_of_dp_sgd_without_any_example_is_a_step_all_the_same() -> None:
    public = DPSGDConfig(noise_multiplier=1.0, clip=1.0, sample_rate=1e-12, local_steps=5, denominator=1.0)
    made = list(samples(stacked([[1, 2], []]), public, 1, ITEMS, SeededNoise(1)))
    assert len(made) == 5 and all(len(list(one.steps())) == 1 and not one.count.any() for one in made)


def test_devices_start_alike_whoever_starts_with_them() -> None:
    shapes = {"user.weight": (1, 3), "bias": (1,)}
    users = np.arange(6)
    many = first_private(shapes, 0.1, 4, users)
    for user in users.tolist():
        one = first_private(shapes, 0.1, 4, np.array([user]))
        assert all(np.array_equal(many[name][user], one[name][0]) for name in shapes)
    assert {name: array.shape for name, array in many.items()} == {"user.weight": (6, 1, 3), "bias": (6, 1)}
    assert first_private({}, 0.1, 4, users) == {} and not first_private(shapes, 0.0, 4, users)["bias"].any()
    other = first_private(shapes, 0.1, 5, users)["user.weight"]
    assert not np.isin(other, many["user.weight"]).any()
    wide = first_private({"w": (501,)}, 2.0, 0, np.arange(40))["w"]
    assert wide.std() == pytest.approx(2.0, rel=0.03) and stats.kstest(wide.ravel() / 2, "norm").pvalue > 1e-6  # type: ignore[attr-defined]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=50, unique=True))
def test_scrambling_is_one_to_one(words: list[int]) -> None:
    assert len(set(splitmix64(np.array(words, np.uint64)).tolist())) == len(words)


def test_scrambling_gives_the_published_words() -> None:
    """The first outputs of the reference implementation from the seed 1234567."""
    state = np.array([(1234567 + n * 0x9E3779B97F4A7C15) % 2**64 for n in (1, 2, 3)], np.uint64)
    assert splitmix64(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(1, 2**32))
def test_words_become_numbers_within_their_range(words: list[int], limit: int) -> None:
    array = np.array(words, np.uint64)
    assert ((uniform(array) >= 0) & (uniform(array) < 1)).all()
    below = random_below(array, limit)
    assert ((below >= 0) & (below < limit)).all()
    assert below.tolist() == [(word >> 32) * limit >> 32 for word in words]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=0, max_size=3), st.lists(st.integers(0, 2**64 - 1), max_size=3))
def test_two_keys_have_two_streams(one: list[int], other: list[int]) -> None:
    users, index = np.arange(3), np.arange(4)[None]
    words = [CounterRNG(*key).keyed(users, index) for key in (one, other)]
    assert np.array_equal(*words) == (one == other)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_streams_have_numbers_of_their_own_that_never_change() -> None:
    assert {stream.name: stream.value for stream in Stream} == {
        "RELEASE": 1, "NODE": 2, "DROPOUT": 3, "COHORT": 4, "SERVER": 5, "TRAIN": 6, "PRIVATE": 7, "NOISE": 8,
        "INIT": 11, "GROUPS": 12,
    }  # fmt: skip
    assert len({stream.value for stream in Stream}) == len(Stream)


def test_draws_by_counter_are_normal_and_a_golden_few_stay_as_they_are() -> None:
    words = CounterRNG(1, 2).keyed(np.arange(2000), np.arange(20)[None])
    drawn = normal(words)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-6  # type: ignore[attr-defined]
    assert abs(np.corrcoef(drawn[:, :10].ravel(), drawn[:, 10:].ravel())[0, 1]) < 0.03
    few = CounterRNG(1, 2).keyed(np.array([0, 7]), np.array([[0, 1]]))
    assert few.tolist() == GOLDEN, "every seeded result would change"


GOLDEN = [[15752529030746560859, 12439752677424898828], [5084400787803959133, 7710013722024242298]]


@settings(max_examples=30)
@given(st.integers(0, 2**63), st.integers(0, 40))
def test_seeded_noise_follows_its_key_alone(key: int, size: int) -> None:
    one, other = (make_noise_source("seeded", (key, 3)).gaussian((size,), 2.0) for _ in range(2))
    assert np.array_equal(one, other) and one.dtype == np.float32 and one.shape == (size,)
    if size > 3:
        assert not np.array_equal(one, make_noise_source("seeded", (key, 4)).gaussian((size,), 2.0))
        assert not np.array_equal(one, make_noise_source("secure", (key, 3)).gaussian((size,), 2.0))
    assert np.array_equal(SeededNoise(key, 3).gaussian((size,), 4.0), 2 * one)
