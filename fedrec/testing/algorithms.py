"""What every algorithm promises, with a model that it is for."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch

from fedrec.algorithms.base import Algorithm, Contribution, RoundContext
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.messages import Arrays, total
from fedrec.models.base import Recommender
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Aggregate, Mechanism
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.release import worth
from fedrec.testing.models import ITEMS, SEED, catalogue, device, made_by

PUBLIC = catalogue(ITEMS)
CLIP = 0.3
MECHANISMS: dict[Unit, Mechanism] = {
    Unit.NONE: NoPrivacy(),
    Unit.USER: UserLevel(clip=CLIP, noise_multiplier=1.0, randomness="seeded"),
    Unit.INTERACTION: InteractionLevel(noise_multiplier=1.0, randomness="seeded"),
}
DEVICES = [device(0, 1, 4, 5, 9), device(1), device(2, 7), device(3, 2, 2, 2, 8, 8), device(4, *range(11))]
SLACK = 1 + 1e-6


@dataclass(frozen=True)
class AlgorithmCase:
    """An algorithm with a model that it is for, and what comes of them round after round."""

    algorithm: Algorithm
    model: Callable[[Catalogue], Recommender]
    name: str

    @property
    def units(self) -> list[Unit]:
        """The mechanisms that it can contribute under: plain gradients are no DP-SGD, and are refused there."""
        trains = self.algorithm.trains
        return [u for u in MECHANISMS if u == Unit.NONE or not trains or self.algorithm.sensitivity(u) is not None]

    def fresh(self) -> Recommender:
        """Return a model that no device has used yet, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return self.model(PUBLIC)

    def first(self) -> Arrays:
        """Return the state before the first round."""
        return self.algorithm.init(self.fresh(), PUBLIC)

    def contribute(
        self,
        state: Arrays,
        devices: Sequence[DeviceData],
        private: Sequence[Arrays],
        unit: Unit = Unit.NONE,
        round_number: int = 1,
    ) -> list[Contribution]:
        """Return what the devices contribute in a round under the mechanism of that unit."""
        context = RoundContext(round_number, SEED, MECHANISMS[unit])
        sent = self.algorithm.broadcast(state)
        return list(self.algorithm.contribute_many(self.fresh(), sent, devices, private, context))

    def of_history(self, state: Arrays, history: np.ndarray, unit: Unit) -> Contribution:
        """Return what one device with this history contributes."""
        one = device(0, *history.tolist())
        values = np.ones(len(history), np.float32)
        context = RoundContext(1, SEED, MECHANISMS[unit])
        sent = self.algorithm.broadcast(state)
        return self.algorithm.contribute(self.prepared, sent, replace(one, values=values), {}, context)

    @cached_property
    def prepared(self) -> Recommender:
        """A model for contributions that are compared with each other."""
        return self.fresh()

    @cached_property
    def states(self) -> tuple[Arrays, ...]:
        """The state before each round, and the last one, of a run of two rounds over all devices without privacy."""
        states, private = [self.first()], [Arrays() for _ in DEVICES]
        for number in range(1, self.algorithm.rounds(2) + 1):
            made = self.contribute(states[-1], DEVICES, private, round_number=number)
            private = [one.private for one in made]
            summed = total((one.update for one in made), made[0].update.arrays)
            states.append(self.algorithm.step(states[-1], Aggregate(summed.arrays, float(len(DEVICES)))))
        return tuple(states)


def copied(arrays: Arrays) -> Arrays:
    """Return a copy of every array."""
    return {name: array.copy() for name, array in arrays.items()}


def same(one: Arrays, other: Arrays) -> bool:
    """Return whether both have the same names and values."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def distance(one: Contribution, other: Contribution) -> float:
    """Return the L2 distance of two updates."""
    changes = (one.update.arrays[n].astype(float) - other.update.arrays[n] for n in one.update.arrays)
    return math.sqrt(sum(float(np.sum(change**2)) for change in changes))


def used_items(case: AlgorithmCase, state: Arrays) -> np.ndarray:
    """Return the items that the statistic of this round looks at: all, or the head once it is chosen."""
    counted = "head_items" not in state or "counts" in case.algorithm.shapes(state)
    return np.arange(ITEMS) if counted else state["head_items"].astype(int)


def check_user_bound(case: AlgorithmCase, history: np.ndarray) -> None:
    """Check that one user's statistic, of any history, is no longer than the sensitivity says, in any round."""
    limit = case.algorithm.sensitivity(Unit.USER)
    assert limit is not None
    for state in case.states[:-1]:
        assert case.of_history(state, history, Unit.USER).update.norm() <= limit * SLACK


def check_interaction_bound(case: AlgorithmCase, history: np.ndarray, place: int) -> None:
    """Check that leaving out one interaction moves the statistic no further than the sensitivity says."""
    limit = case.algorithm.sensitivity(Unit.INTERACTION)
    assert limit is not None
    for state in case.states[:-1]:
        whole = case.of_history(state, history, Unit.INTERACTION)
        without = case.of_history(state, np.delete(history, place) if len(history) else history, Unit.INTERACTION)
        assert distance(whole, without) <= limit * SLACK


def check_release_bound(case: AlgorithmCase, history: np.ndarray) -> None:
    """Check algorithm and mechanism together: a statistic passes whole, a trained change is cut down to the clip."""
    clip = CLIP if case.algorithm.trains else case.algorithm.sensitivity(Unit.USER) or 0.0
    ready = UserLevel(clip=clip, noise_multiplier=1.0, randomness="seeded")
    for state in case.states[:-1]:
        made = case.of_history(state, history, Unit.USER).update
        released = ready.privatize_update(made, ready.random(1))
        assert released.norm() <= clip * SLACK and released.count == 1
        values = worth(released)
        changes = (float(np.abs(values[name] - made.arrays[name]).max()) for name in made.arrays)
        assert case.algorithm.trains or max(changes) <= clip / 1024


class AlgorithmContract:
    """Checks of one algorithm: `make()` builds it, `model(catalogue)` a model that it is for, in a size for 12 items.

    Contributions, states and bounds are those of five devices over two rounds, under no privacy, user and interaction
    level.
    """

    make: ClassVar[Callable[[], Algorithm]]
    model: ClassVar[Callable[[Catalogue], Recommender]]

    @pytest.fixture
    def case(self) -> AlgorithmCase:
        """The algorithm with its model."""
        return AlgorithmCase(made_by(self)().with_catalogue(PUBLIC), made_by(self, "model"), type(self).__name__)

    @pytest.fixture(params=MECHANISMS)
    def unit(self, request: pytest.FixtureRequest, case: AlgorithmCase) -> Unit:
        """A unit of privacy that the algorithm contributes under."""
        if request.param not in case.units:
            pytest.skip(f"{case.name} is refused at {request.param} level")
        return request.param

    @pytest.fixture(params=range(12))
    def history(self, request: pytest.FixtureRequest) -> np.ndarray:
        """A history, from none to forty interactions, repeats among them."""
        rng = np.random.default_rng(request.param)
        return rng.integers(0, ITEMS, rng.integers(0, 41) if request.param else 0).astype(np.int32)

    def test_the_model_is_one_that_it_accepts(self, case: AlgorithmCase) -> None:
        """Any other pair is refused by name before a run begins."""
        assert isinstance(case.fresh(), case.algorithm.accepts) and isinstance(type(case.algorithm).name, str)

    def test_many_devices_contribute_what_each_does_alone(self, case: AlgorithmCase, unit: Unit) -> None:
        """Bit-equal to the loop, here with a fresh model for each: nothing is carried from one device to the next."""
        for number, state in enumerate(case.states[:-1], start=1):
            private = [one.private for one in case.contribute(state, DEVICES, [{} for _ in DEVICES])]
            private[2] = {}
            together = case.contribute(state, DEVICES, private, unit, number)
            assert len(together) == len(DEVICES)
            for one, mine, found in zip(DEVICES, private, together, strict=True):
                context = RoundContext(number, SEED, MECHANISMS[unit])
                alone = case.algorithm.contribute(case.fresh(), case.algorithm.broadcast(state), one, mine, context)
                assert same(found.update.arrays, alone.update.arrays) and same(found.private, alone.private)
                assert (found.update.count, found.loss, found.examples) == (1, alone.loss, alone.examples)

    def test_an_update_has_the_promised_names_and_shapes_in_every_round(self, case: AlgorithmCase, unit: Unit) -> None:
        """What the server checks a reply for is what a device sends."""
        for number, state in enumerate(case.states[:-1], start=1):
            promised = case.algorithm.shapes(state)
            for made in case.contribute(state, DEVICES, [{} for _ in DEVICES], unit, number):
                assert {name: array.shape for name, array in made.update.arrays.items()} == promised
                for name, array in made.update.arrays.items():
                    double = name in case.algorithm.float64_arrays and array.dtype == np.float64
                    assert double or array.dtype == np.float32, f"{name} is {array.dtype}"

    def test_the_state_keeps_its_names_shapes_and_precision(self, case: AlgorithmCase) -> None:
        """A checkpoint of any round fills the next one; and every round changes something."""
        assert len(case.states) == case.algorithm.rounds(2) + 1
        for before, after in pairwise(case.states):
            kept = {n: (a.shape, a.dtype) for n, a in before.items()}
            assert {n: (a.shape, a.dtype) for n, a in after.items()} == kept
            assert not same(before, after)
            sent = case.algorithm.broadcast(after)
            assert sent.keys() == case.algorithm.broadcast(before).keys()
            assert sent.keys() >= case.fresh().shared
        assert all(np.isfinite(array).all() for array in case.states[-1].values())

    def test_a_step_neither_changes_the_state_it_started_from_nor_the_sum(self, case: AlgorithmCase) -> None:
        """The state of a round is still wanted after the next one was made of it."""
        state = case.first()
        before = copied(state)
        summed: Arrays = {name: np.ones(shape, np.float32) for name, shape in case.algorithm.shapes(state).items()}
        after = case.algorithm.step(state, Aggregate(summed, 3.0))
        assert same(state, before) and all((array == 1).all() for array in summed.values())
        for name in after.keys() & case.algorithm.shapes(state).keys():
            after[name] += 1
        assert same(state, before)

    def test_the_parts_of_the_budget_are_one_whole(self, case: AlgorithmCase) -> None:
        """The rounds' shares are positive and sum to 1, and asking for the rounds that it takes changes nothing."""
        for asked in (1, 2, 7):
            rounds = case.algorithm.rounds(asked)
            shares = case.algorithm.budget_shares(rounds)
            assert rounds >= 1 and case.algorithm.rounds(rounds) == rounds
            if shares is not None:
                assert len(shares) == rounds and min(shares) > 0 and math.isclose(sum(shares), 1.0)

    def test_contributing_leaves_what_it_was_given_untouched(self, case: AlgorithmCase) -> None:
        """Neither the history nor what was broadcast nor the private arrays change, nor are they handed out again."""
        state = case.states[-2]
        sent = case.algorithm.broadcast(copied(state))
        private = case.contribute(state, DEVICES[:1], [{}])[0].private
        kept, mine, history = copied(sent), copied(private), DEVICES[0].history.copy()
        for unit in case.units:
            context = RoundContext(2, SEED, MECHANISMS[unit])
            made = case.algorithm.contribute(case.fresh(), sent, DEVICES[0], private, context)
            assert np.array_equal(DEVICES[0].history, history) and same(sent, kept) and same(private, mine), unit
            for array in (*made.update.arrays.values(), *made.private.values()):
                array += 1  # what came back is the receiver's own too
            assert same(sent, kept) and same(private, mine), unit

    def test_private_arrays_are_taken_up_again_and_matter(self, case: AlgorithmCase) -> None:
        """What a device kept fills the model again, and training goes on from it."""
        state, model = case.first(), case.fresh()
        for unit in case.units:
            for one in case.contribute(state, DEVICES, [{} for _ in DEVICES], unit):
                assert one.private.keys() == model.private_arrays().keys()
                model.load(one.private)
                assert same(model.private_arrays(), one.private)
        first = case.contribute(state, DEVICES[:1], [{}])[0]
        again = case.contribute(state, DEVICES[:1], [first.private])[0]
        assert same(again.private, first.private) == (not (case.algorithm.trains and first.private))

    def test_an_empty_history_adds_nothing_of_its_own(self, case: AlgorithmCase, unit: Unit) -> None:
        """Zeros; at interaction level training adds its noise all the same, or its absence would say who is idle."""
        for state in case.states[:-1]:
            made = case.contribute(state, DEVICES[1:2], [{}], unit)[0]
            assert made.update.finite() and made.update.count == 1 and (made.loss, made.examples) == (0.0, 0)
            assert (made.update.norm() > 0) == (unit == Unit.INTERACTION and case.algorithm.trains)

    def test_rounds_and_users_train_on_draws_of_their_own(self, case: AlgorithmCase) -> None:
        """The same round of the same user draws the same; another round, or another user, does not."""
        if not case.algorithm.trains:
            pytest.skip("a statistic draws nothing")
        state, one = case.first(), DEVICES[0]
        found = [
            case.contribute(state, [replace(one, user=user)], [{}], round_number=number)[0]
            for user, number in ((4, 1), (4, 1), (4, 2), (5, 1))
        ]
        assert same(found[0].update.arrays, found[1].update.arrays)
        assert distance(found[0], found[2]) > 0 and distance(found[0], found[3]) > 0

    def test_a_bound_is_finite_for_statistics_and_left_to_the_clip_for_training(self, case: AlgorithmCase) -> None:
        """None says that there is no argument, and that such a pair is refused."""
        for unit in (Unit.USER, Unit.INTERACTION):
            limit = case.algorithm.sensitivity(unit)
            assert limit is None or (limit == math.inf if case.algorithm.trains else 0 < limit < math.inf)

    def test_one_user_adds_no_more_than_the_bound(self, case: AlgorithmCase, history: np.ndarray) -> None:
        """The noise at user level is made for this bound."""
        bounded(case, Unit.USER)
        check_user_bound(case, history)

    def test_what_is_honest_is_not_cut(self, case: AlgorithmCase, history: np.ndarray) -> None:
        """The server's bound on what is said of one item is one that every honest device keeps to by itself."""
        for unit in case.units:
            for state in case.states[:-1]:
                made = case.of_history(state, history, unit).update
                assert same(case.algorithm.clip_items(state, made, unit, 0.0).arrays, made.arrays)

    def test_one_interaction_moves_no_more_than_the_bound(self, case: AlgorithmCase, history: np.ndarray) -> None:
        """The noise at interaction level is made for this bound."""
        bounded(case, Unit.INTERACTION)
        for place in {0, len(history) // 2, max(len(history) - 1, 0)}:
            check_interaction_bound(case, history, place)

    def test_what_leaves_a_device_at_user_level_is_within_the_clip(
        self, case: AlgorithmCase, history: np.ndarray
    ) -> None:
        """A statistic is not cut by a clip of its own bound; what was trained never passes the clip."""
        if case.algorithm.sensitivity(Unit.USER) is None:
            pytest.skip(f"{case.name} is refused at user level")
        check_release_bound(case, history)


def bounded(case: AlgorithmCase, unit: Unit) -> None:
    """Skip what has no finite bound at this unit."""
    limit = case.algorithm.sensitivity(unit)
    if limit is None or math.isinf(limit):
        pytest.skip(f"{case.name} has no bound of its own at {unit} level")
