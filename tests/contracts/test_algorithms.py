"""What every algorithm promises, for every yaml under conf/algorithm with the models that it is for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrec.algorithms.base import Algorithm, Contribution, RoundContext
from fedrec.data.devices import DeviceData
from fedrec.errors import RefusedError
from fedrec.experiment.instantiate import instantiate
from fedrec.models.base import Recommender
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Aggregate, Mechanism, TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.update import Arrays, total
from tests.support.tiny import catalogue

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
ITEMS, SEED = 12, 4
PUBLIC = catalogue(ITEMS)
MECHANISMS: dict[Unit, Mechanism] = {
    Unit.NONE: NoPrivacy(),
    Unit.USER: UserLevel(clip=0.3, noise_multiplier=1.0, randomness="seeded"),
    Unit.INTERACTION: InteractionLevel(noise_multiplier=1.0, randomness="seeded"),
}
PLAN = TrainingPlan(population=60, interactions=900, cohort_rate=1.0, rounds=2, trains=False)
HISTORIES = hnp.arrays(np.int32, st.integers(0, 40), elements=st.integers(0, ITEMS - 1))


@dataclass(frozen=True)
class Case:
    algorithm: Algorithm
    model: str
    name: str

    @property
    def units(self) -> list[Unit]:
        """The mechanisms that it can contribute under: plain gradients are no DP-SGD, and are refused there."""
        return [unit for unit in MECHANISMS if not (self.name == "sequences" and unit == Unit.INTERACTION)]

    def fresh(self) -> Recommender:
        """A model that no device has used yet, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return instantiate({**node("model", self.model)["model"], **SMALLER.get(self.model, {})}, "model")(PUBLIC)

    def first(self) -> Arrays:
        return self.algorithm.init(self.fresh(), PUBLIC)

    def contribute(
        self,
        state: Arrays,
        devices: list[DeviceData],
        private: list[Arrays],
        unit: Unit = Unit.NONE,
        round_number: int = 1,
    ) -> list[Contribution]:
        context = RoundContext(round_number, SEED, MECHANISMS[unit])
        sent = self.algorithm.broadcast(state)
        return list(self.algorithm.contribute_many(self.fresh(), sent, devices, private, context))

    def states(self, rounds: int = 2) -> list[Arrays]:
        """The state before each round, and the last one, of a run over all devices without privacy."""
        states, private = [self.first()], [Arrays() for _ in DEVICES]
        for number in range(1, self.algorithm.rounds(rounds) + 1):
            made = self.contribute(states[-1], DEVICES, private, round_number=number)
            private = [one.private for one in made]
            summed = total((one.update for one in made), made[0].update.arrays)
            states.append(self.algorithm.step(states[-1], Aggregate(summed.arrays, float(len(DEVICES)))))
        return states


def node(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


@cache
def case_of(name: str, model: str) -> Case:
    algorithm = instantiate({**node("algorithm", name), **HEADS.get(name, {})}, "algorithm")
    return Case(algorithm.with_catalogue(PUBLIC), model, name)


@cache
def stages_of(name: str, model: str) -> tuple[Arrays, ...]:
    return tuple(case_of(name, model).states())


@pytest.fixture(params=PAIRS, ids=lambda pair: " on ".join(pair))
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(*request.param)


def device(user: int, *items: int) -> DeviceData:
    history, empty = np.array(items, np.int32), np.empty(0, np.int32)
    return DeviceData(user, history, np.full(len(items), 4.0, np.float32), empty, empty, np.empty(0, np.float32))


DEVICES = [device(0, 1, 4, 5, 9), device(1), device(2, 7), device(3, 2, 2, 2, 8, 8), device(4, *range(11))]


def bounded(unit: Unit) -> Iterator[tuple[str, str]]:
    """The pairs whose contribution has a finite bound at this unit."""
    for pair in PAIRS:
        limit = case_of(*pair).algorithm.sensitivity(unit)
        if limit is not None and math.isfinite(limit):
            yield pair


def copied(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def distance(one: Contribution, other: Contribution) -> float:
    changes = (one.update.arrays[n].astype(float) - other.update.arrays[n] for n in one.update.arrays)
    return math.sqrt(sum(float(np.sum(change**2)) for change in changes))


@pytest.fixture(params=MECHANISMS)
def unit(request: pytest.FixtureRequest, case: Case) -> Unit:
    if request.param not in case.units:
        pytest.skip(f"{case.name} is refused at {request.param} level")
    return request.param


def test_many_devices_contribute_what_each_does_alone(case: Case, unit: Unit) -> None:
    """Bit-equal to the loop, here with a fresh model for each: nothing is carried from one device to the next."""
    for number, state in enumerate(stages_of(case.name, case.model)[:-1], start=1):
        private = [one.private for one in case.contribute(state, DEVICES, [{} for _ in DEVICES])]
        private[2] = {}
        together = case.contribute(state, DEVICES, private, unit, number)
        assert len(together) == len(DEVICES)
        for one, mine, found in zip(DEVICES, private, together, strict=True):
            context = RoundContext(number, SEED, MECHANISMS[unit])
            alone = case.algorithm.contribute(case.fresh(), case.algorithm.broadcast(state), one, mine, context)
            assert same(found.update.arrays, alone.update.arrays) and same(found.private, alone.private)
            assert (found.update.count, found.loss, found.examples) == (1, alone.loss, alone.examples)


def test_an_update_has_the_promised_names_and_shapes_in_every_round(case: Case, unit: Unit) -> None:
    for number, state in enumerate(stages_of(case.name, case.model)[:-1], start=1):
        promised = case.algorithm.shapes(state)
        for made in case.contribute(state, DEVICES, [{} for _ in DEVICES], unit, number):
            assert {name: array.shape for name, array in made.update.arrays.items()} == promised
            double = DOUBLE.get(case.name, set[str]())
            assert all((a.dtype == np.float64) == (n in double) for n, a in made.update.arrays.items())


def test_the_state_keeps_its_names_shapes_and_precision(case: Case) -> None:
    states = stages_of(case.name, case.model)
    assert len(states) == case.algorithm.rounds(2) + 1
    for before, after in pairwise(states):
        assert {n: (a.shape, a.dtype) for n, a in after.items()} == {n: (a.shape, a.dtype) for n, a in before.items()}
        assert not same(before, after)
        sent = case.algorithm.broadcast(after)
        assert sent.keys() == case.algorithm.broadcast(before).keys()
        assert sent.keys() >= case.fresh().shared
    double = DOUBLE.get(case.name, set[str]())
    assert all((a.dtype == np.float64) == (n in double) and np.isfinite(a).all() for n, a in states[-1].items())


def test_a_step_neither_changes_the_state_it_started_from_nor_the_sum(case: Case) -> None:
    state = case.first()
    before = copied(state)
    summed = {name: np.ones(shape, np.float32) for name, shape in case.algorithm.shapes(state).items()}
    after = case.algorithm.step(state, Aggregate(summed, 3.0))
    assert same(state, before) and all((array == 1).all() for array in summed.values())
    for name in after.keys() & case.algorithm.shapes(state).keys():
        after[name] += 1
    assert same(state, before)


def test_the_parts_of_the_budget_are_one_whole(case: Case) -> None:
    for asked in (1, 2, 7):
        rounds = case.algorithm.rounds(asked)
        shares = case.algorithm.budget_shares(rounds)
        assert rounds >= 1 and case.algorithm.rounds(rounds) == rounds
        if shares is not None:
            assert len(shares) == rounds and min(shares) > 0 and math.isclose(sum(shares), 1.0)


def test_contributing_leaves_what_it_was_given_untouched(case: Case) -> None:
    state = stages_of(case.name, case.model)[-2]
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


def test_private_arrays_are_taken_up_again_and_matter(case: Case) -> None:
    state, model = case.first(), case.fresh()
    for unit in case.units:
        for one in case.contribute(state, DEVICES, [{} for _ in DEVICES], unit):
            assert one.private.keys() == model.private_arrays().keys()
            model.load(one.private)
            assert same(model.private_arrays(), one.private)
    first = case.contribute(state, DEVICES[:1], [{}])[0]
    again = case.contribute(state, DEVICES[:1], [first.private])[0]
    assert same(again.private, first.private) == (not (case.algorithm.trains and first.private))


def test_an_empty_history_adds_nothing_of_its_own(case: Case, unit: Unit) -> None:
    """Zeros; at interaction level training adds its noise all the same, or its absence would say who is idle."""
    for state in stages_of(case.name, case.model)[:-1]:
        made = case.contribute(state, DEVICES[1:2], [{}], unit)[0]
        assert made.update.finite() and made.update.count == 1 and (made.loss, made.examples) == (0.0, 0)
        assert (made.update.norm() > 0) == (unit == Unit.INTERACTION and case.algorithm.trains)


def test_rounds_and_users_train_on_draws_of_their_own(case: Case) -> None:
    if not case.algorithm.trains:
        pytest.skip("a statistic draws nothing")
    state, one = case.first(), DEVICES[0]
    found = [
        case.contribute(state, [replace(one, user=user)], [{}], round_number=number)[0]
        for user, number in ((4, 1), (4, 1), (4, 2), (5, 1))
    ]
    assert same(found[0].update.arrays, found[1].update.arrays)
    assert distance(found[0], found[2]) > 0 and distance(found[0], found[3]) > 0


def test_a_bound_is_finite_for_statistics_and_left_to_the_clip_for_training(case: Case) -> None:
    for unit in (Unit.USER, Unit.INTERACTION):
        limit = case.algorithm.sensitivity(unit)
        if case.algorithm.trains:
            assert limit == (math.inf if unit in case.units else None)
        else:
            assert limit is None or 0 < limit < math.inf


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
    case = case_of(name, model)
    limit = case.algorithm.sensitivity(Unit.USER)
    assert limit is not None
    for state in stages_of(name, model)[:-1]:
        norm = contribution(case, state, history, Unit.USER).update.norm()
        silent = not np.isin(history, used_items(case, state)).any() or "symmetric" in case.algorithm.shapes(state)
        assert norm <= limit * (1 + 1e-6) and (norm > 0 or silent)  # pairs may lie further apart than the window


@pytest.mark.parametrize(("name", "model"), list(bounded(Unit.INTERACTION)))
@settings(max_examples=60, deadline=None)
@given(history=HISTORIES, data=st.data())
def test_one_interaction_moves_no_more_than_the_bound(
    name: str, model: str, history: np.ndarray, data: st.DataObject
) -> None:
    case = case_of(name, model)
    limit = case.algorithm.sensitivity(Unit.INTERACTION)
    assert limit is not None
    place = data.draw(st.integers(0, max(len(history) - 1, 0)))
    for state in stages_of(name, model)[:-1]:
        whole = contribution(case, state, history, Unit.INTERACTION)
        without = contribution(case, state, np.delete(history, place) if len(history) else history, Unit.INTERACTION)
        assert distance(whole, without) <= limit * (1 + 1e-6)


@pytest.mark.parametrize(
    ("name", "model"), [pair for pair in PAIRS if pair[0] in ("counts", "gram", "neighbours", "order", "fedsgd")]
)
@settings(max_examples=25, deadline=None)
@given(history=HISTORIES)
def test_what_leaves_a_device_at_user_level_is_within_the_clip(name: str, model: str, history: np.ndarray) -> None:
    """Algorithm and mechanism together: a statistic passes whole, a trained change is cut down to the clip."""
    case, mechanism = case_of(name, model), MECHANISMS[Unit.USER]
    assert isinstance(mechanism, UserLevel)
    ready = (
        mechanism if case.algorithm.trains else replace(mechanism, clip=case.algorithm.sensitivity(Unit.USER) or 0.0)
    )
    for state in stages_of(name, model)[:-1]:
        made = contribution(case, state, history, Unit.USER).update
        released = ready.privatize_update(made, ready.random(1))
        assert released.norm() <= ready.clip * (1 + 1e-6) and released.count == 1
        assert case.algorithm.trains or distance_of(released.arrays, made.arrays) <= 1e-6


def contribution(case: Case, state: Arrays, history: np.ndarray, unit: Unit) -> Contribution:
    empty = np.empty(0, np.int32)
    one = DeviceData(0, history, np.ones(len(history), np.float32), empty, empty, np.empty(0, np.float32))
    context = RoundContext(1, SEED, MECHANISMS[unit])
    return case.algorithm.contribute(prepared(case.model), case.algorithm.broadcast(state), one, {}, context)


@cache
def prepared(model: str) -> Recommender:
    return case_of(*next(pair for pair in PAIRS if pair[1] == model)).fresh()


def used_items(case: Case, state: Arrays) -> np.ndarray:
    """The items that the statistic of this round looks at: all, or the head once it is chosen."""
    counted = "counts" in case.algorithm.shapes(state)
    return np.arange(ITEMS) if counted else state["head_items"].astype(int)


def distance_of(one: Arrays, other: Arrays) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)
