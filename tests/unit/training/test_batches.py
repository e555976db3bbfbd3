"""Which examples local training sees: the same for a device alone and in company, and never what is held out.

The leak gate (invariant E2) is here too: nothing may be learned from what is never drawn.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.interactions import DeviceData, DeviceTable
from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.per_device import evaluate_device
from fedrec.evaluation.per_user import table
from fedrec.privacy.noise import SeededNoise, SystemNoise
from fedrec.rng import CounterRNG, normal, random_below, uniform
from fedrec.training.batches import (
    Epoch,
    Histories,
    NegativeSampler,
    first_private,
    poisson,
    shuffled,
    uniform_negatives,
)

ITEMS, USERS, ROUNDS = 400, 300, 20


def device(user: int, items: list[int] | np.ndarray, test: list[int] | np.ndarray = ()) -> DeviceData:  # type: ignore[assignment]
    history, none = np.asarray(items, np.int32), np.empty(0, np.int32)
    ones = np.ones(len(history), np.float32)
    return DeviceData(user, history, ones, none, np.asarray(test, np.int32), np.empty(0, np.float32))


def histories(*lines: list[int], users: list[int] | None = None) -> Histories:
    start = np.cumsum([0, *map(len, lines)])
    items = np.concatenate([np.empty(0, np.int32), *(np.array(line, np.int32) for line in lines)])
    bytes_in_flight = start[1:]
    flat = DeviceTable(start, bytes_in_flight, bytes_in_flight, items, np.arange(len(items), dtype=np.float32), ITEMS)
    found = Histories.at(flat, np.arange(len(lines)))
    return Histories(np.array(users), found.items, found.values, found.sizes) if users else found


def test_histories_are_the_devices_own_rows() -> None:
    found = histories([3, 1], [], [7, 7, 2])
    assert found.sizes.tolist() == [2, 0, 3] and found.items.shape == (3, 3)
    assert found.items[0, :2].tolist() == [3, 1] and found.items[2].tolist() == [7, 7, 2]
    assert found.values[2].tolist() == [2.0, 3.0, 4.0]
    assert found.real().tolist() == [[True, True, False], [False] * 3, [True] * 3]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 29), max_size=12), min_size=1, max_size=6), st.integers(0, 3), st.integers(1, 9)
)
def test_company_changes_nothing(lines: list[list[int]], number: int, batch: int) -> None:
    """The law that the cohort engine stands on: devices together draw what each of them draws alone."""
    users = [10 * n + 1 for n in range(len(lines))]
    random, many = CounterRNG(1, 2), histories(*lines, users=users)
    order, drawn = shuffled(random, many, number, batch), NegativeSampler(30).draw(random, many, number, 3)
    picked, count = poisson(random, many, number, 0.5)
    for row, (user, line) in enumerate(zip(users, lines, strict=True)):
        alone, size = Histories.of(device(user, line)), len(line)
        assert sorted(order[row, :size]) == list(range(size))
        np.testing.assert_array_equal(order[row, :size], shuffled(random, alone, number, batch)[0])
        np.testing.assert_array_equal(drawn[row, :size], NegativeSampler(30).draw(random, alone, number, 3)[0])
        mine, mine_count = poisson(random, alone, number, 0.5)
        assert count[row] == mine_count[0]
        np.testing.assert_array_equal(picked[row, : count[row]], mine[0, : count[row]])
        assert not set(drawn[row, :size].ravel()) & set(line)


def test_an_epoch_takes_every_example_once_and_in_another_order() -> None:
    many = histories(list(range(10)), list(range(3)))
    first, second = (shuffled(CounterRNG(0), many, number, 4) for number in (0, 1))
    assert sorted(first[0]) == list(range(10)) and not np.array_equal(first[0], second[0])
    assert first[1, :3].tolist() == [0, 1, 2]  # all of it fits into one batch: no order to draw
    steps = list(Epoch(first, many.sizes, np.zeros((2, 10, 0), np.int64), 4).steps())
    assert [(step.start, step.stop) for step in steps] == [(0, 4), (4, 8), (8, 12)]


def test_samples_are_poisson() -> None:
    many = histories(*[list(range(50))] * 4000)
    order, sizes = poisson(SystemNoise(), many, 0, 0.2)
    assert sizes.mean() == pytest.approx(10, abs=5 * (8 / 4000) ** 0.5)
    assert sizes.var() == pytest.approx(8, rel=0.15)
    drawn = np.concatenate([line[:size] for line, size in zip(order, sizes, strict=True)])
    assert np.abs(np.bincount(drawn, minlength=50) - 800).max() < 5 * (4000 * 0.16) ** 0.5
    assert poisson(SystemNoise(), many, 0, 1.0)[1].tolist() == [50] * 4000
    nothing = Epoch(order[:, :0], 0 * sizes, np.zeros((4000, 0, 1), np.int64), 1)
    assert len(list(nothing.steps())) == 1  # an empty sample is a step too


def test_outside_means_outside_and_uniform() -> None:
    drawn = NegativeSampler(50).draw(SystemNoise(), histories([*range(20)] * 200), 0, 3)
    assert drawn.min() == 20
    counts = np.bincount(drawn.ravel(), minlength=50)[20:]
    assert ((counts - 400) ** 2 / 400).sum() < 60  # chi-squared with 29 degrees of freedom


def test_a_user_of_nearly_everything_gets_the_rest_and_one_of_everything_gets_all() -> None:
    many = histories([*range(49)] * 20, [*range(50)] * 20)
    drawn = NegativeSampler(50).draw(CounterRNG(0), many, 0, 4)
    assert set(drawn[0, :980].ravel()) == {49}
    assert set(drawn[1, :1000].ravel()) == set(range(50))


def test_uniform_looks_at_nothing() -> None:
    lines = histories([1] * 200), histories([4] * 200)
    first, second = (uniform_negatives(SeededNoise(3), one, 0, 5, 2) for one in lines)
    assert set(first.ravel()) == set(range(5))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, uniform_negatives(SystemNoise(), lines[0], 0, 5, 2))


def test_draws_by_counter_are_uniform_and_normal_and_apart() -> None:
    words = CounterRNG(7, 1).keyed(np.arange(500), np.arange(400)[None])
    assert len(np.unique(words)) == words.size
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 6 * 0.5 / words.size**0.5
    values = uniform(words).ravel()
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 6 / words.size**0.5
    numbers = random_below(words, 7)
    assert np.abs(np.bincount(numbers.ravel()) - words.size / 7).max() < 6 * (words.size / 7) ** 0.5
    drawn = normal(words)
    assert drawn.mean() == pytest.approx(0, abs=0.02) and drawn.std() == pytest.approx(1, abs=0.02)
    assert not np.isin(words, CounterRNG(7, 2).keyed(np.arange(500), np.arange(400)[None])).any()


def test_the_first_private_arrays_depend_on_seed_and_user_alone() -> None:
    shapes = {"b": (2, 3), "a": (1,)}
    many = first_private(shapes, 0.5, 3, np.arange(2000))
    alone = first_private(shapes, 0.5, 3, np.array([1234]))
    assert many["b"].shape == (2000, 2, 3)
    assert all(np.array_equal(many[name][1234], alone[name][0]) for name in shapes)
    assert many["b"].std() == pytest.approx(0.5, rel=0.05)
    assert not first_private(shapes, 0.0, 3, np.arange(5))["a"].any()
    assert not np.array_equal(alone["a"], first_private(shapes, 0.5, 4, np.array([1234]))["a"])


def counter(leaky: bool) -> float:
    """Return HR@10 of the model that only counts how often an item was drawn as a negative."""
    rng, outside = np.random.default_rng(3), NegativeSampler(ITEMS)
    rows = []
    for user in range(USERS):
        items = rng.choice(ITEMS, 22, replace=False)
        own, seen = device(user, items[:20], items[21:]), device(user, items if leaky else items[:20])
        drawn = np.zeros(ITEMS)
        for number in range(ROUNDS):
            np.add.at(drawn, outside.draw(CounterRNG(0), Histories.of(seen), number, 4)[0, :20].ravel(), 1)
        rows.append(evaluate_device(-drawn, own, "test", EvaluationConfig()))
    return float(table([row for row in rows if row], (5, 10, 20))["sampled_hr@10"].mean())


def test_the_counter_of_negatives_stays_at_chance() -> None:
    assert abs(counter(leaky=False) - 0.1) <= 3 * np.sqrt(0.09 / USERS)


def test_the_gate_goes_red_with_a_sampler_that_avoids_the_test_item() -> None:
    assert counter(leaky=True) > 0.35


class Sealed:
    """A device whose held-out items raise when they are looked at."""

    def __init__(self) -> None:
        self.user, self.history = 1, np.array([1, 2, 3], np.int32)
        self.values = np.ones(3, np.float32)

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"training looked at {name}")


@pytest.mark.parametrize(
    "overrides", [["model=mf"], ["model=neumf"], ["model=popularity"], ["model=ease"], ["model=content"]]
)
def test_training_never_looks_at_what_is_held_out(overrides: list[str]) -> None:
    from fedrec.algorithms.base import RoundContext
    from fedrec.experiment.settings import load
    from fedrec.privacy.mechanisms.none import NoPrivacy
    from tests.support.tiny import FREE, catalogue

    experiment = load([*FREE, *overrides]).experiment
    model, algorithm = experiment.model(catalogue()), experiment.algorithm
    state = algorithm.init(model, catalogue())
    algorithm.contribute(model, algorithm.broadcast(state), Sealed(), {}, RoundContext(1, 0, NoPrivacy()))  # type: ignore[arg-type]
