"""What every mechanism must do, checked on what really leaves: devices release, and are summed and noised."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from fedrec.errors import RefusedError
from fedrec.experiment.instantiate import allow, instantiate, is_ours
from fedrec.messages import ModelUpdate
from fedrec.privacy.accounting.composition import epsilon_of_events
from fedrec.privacy.guarantee import Relation, Trust, Unit
from fedrec.privacy.mechanisms.protocol import Mechanism, NoiseSource, TrainingPlan
from fedrec.privacy.mechanisms.user_adaptive import BIT
from fedrec.privacy.noise import SystemNoise
from fedrec.privacy.release import Released, total_of, worth
from fedrec.testing.models import made_by

PLANS = {
    "all, trained": TrainingPlan(population=60, interactions=900, cohort_rate=1.0, rounds=3, trains=True),
    "some, trained": TrainingPlan(population=60, interactions=900, cohort_rate=0.3, rounds=5, trains=True),
    "all, statistic": TrainingPlan(population=60, interactions=900, cohort_rate=1.0, rounds=3, trains=False),
    "some, statistic": TrainingPlan(population=60, interactions=900, cohort_rate=0.3, rounds=5, trains=False),
    "statistic in parts": TrainingPlan(60, 900, 1.0, rounds=2, trains=False, shares=(0.7, 0.3)),
}
STEP = 1 / 1024  # what rounding to a grid may move the sum of two devices by
SENSITIVITY = 0.7  # of the statistic, at either unit
DRAWS = 800


@dataclass
class MechanismCase:
    """A mechanism calibrated for a plan, and the plan as it samples it."""

    mechanism: Mechanism
    plan: TrainingPlan

    @property
    def finite(self) -> bool:
        """Whether it promises anything."""
        return self.mechanism.terms.protects


def calibrated_for(mechanism: Mechanism, plan: TrainingPlan) -> MechanismCase:
    """Return a mechanism calibrated for a plan; skip a pair that it refuses by name."""
    planned = mechanism.with_sampling_rate(plan)
    try:
        return MechanismCase(mechanism.calibrated(planned, math.inf if plan.trains else SENSITIVITY), planned)
    except RefusedError as reason:
        assert type(mechanism).__name__ in str(reason), "a refusal names the mechanism"
        pytest.skip(f"refused: {reason}")


def vector(values: Any, count: int = 1) -> ModelUpdate:
    """Return six numbers as an update of two arrays: one of item rows, one dense."""
    array = np.asarray(values, np.float32)
    return ModelUpdate({"item.a": array[: len(array) // 2], "b": array[len(array) // 2 :].reshape(1, -1)}, count)


def flat(update: Released) -> np.ndarray:
    """Return what the algorithm's arrays are worth as one vector, without what a mechanism adds of its own."""
    return np.concatenate([a.ravel() for n, a in worth(update).items() if n != BIT]).astype(np.float64)


class Silence(SystemNoise):
    """A source of no noise: what a mechanism does besides is seen through it."""

    def gaussian(self, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
        """Return zeros."""
        return np.zeros(shape, np.float32)

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> NDArray[np.int32]:
        """Return zeros."""
        return np.zeros(shape, np.int32)


def released_sum(
    case: MechanismCase, updates: list[ModelUpdate], round_number: int = 1, silent: bool = False
) -> np.ndarray:
    """Return the released sum of devices' contributions, the denominator taken out again; `silent`: without noise."""
    mechanism = case.mechanism.in_round(case.plan, round_number)

    def random(*key: int) -> NoiseSource:
        return Silence() if silent else mechanism.random(*key)

    released = [mechanism.privatize_update(u, random(7, i)) for i, u in enumerate(updates)]
    node_sum = mechanism.clip_node_sum(mechanism.privatize_node_sum(total_of(released), random(8)))
    aggregate = mechanism.privatize_aggregate(node_sum, case.plan, round_number, random(9))
    assert aggregate.arrays.keys() == updates[0].arrays.keys()
    return flat(ModelUpdate({n: a * np.float32(aggregate.denominator) for n, a in aggregate.mean().items()}, 1))


def said_std(case: MechanismCase, devices: int, round_number: int) -> float:
    """Return the noise on a sum over so many devices, as the mechanism itself says it."""
    mechanism, plan = case.mechanism.in_round(case.plan, round_number), case.plan
    nothing = replace(mechanism.privatize_update(vector(np.zeros(6)), mechanism.random(2)), count=devices)
    said = mechanism.privatize_aggregate(nothing, plan, round_number, mechanism.random(1)).noise_std
    on_devices = mechanism.terms.trust in (Trust.DEVICE, Trust.SUMS)
    return said * math.sqrt(devices / plan.expected_cohort) if on_devices else said


class MechanismContract:
    """Checks of one mechanism: `make()` builds it, a dataclass, before it is calibrated.

    They hold a mechanism to its own words: that the noise is what it says, that the accounted epsilon is the one asked
    for, that nothing depends on who arrived. That the words add up to a guarantee remains its author's claim.
    """

    make: ClassVar[Callable[[], Mechanism]]

    @pytest.fixture(params=PLANS)
    def case(self, request: pytest.FixtureRequest) -> MechanismCase:
        """The mechanism, calibrated for a plan that it does not refuse."""
        return calibrated_for(made_by(self)(), PLANS[request.param])

    def expected_std(self, case: MechanismCase, devices: int, round_number: int) -> float:
        """Return the noise that a sum over so many devices must have."""
        return said_std(case, devices, round_number)

    def test_calibrate_then_account(self, case: MechanismCase) -> None:
        """The noise that was found costs the epsilon that was asked for, and at most a hundredth less."""
        mechanism, plan = case.mechanism, case.plan
        events = [(mechanism.event(plan, r), 1) for r in range(1, plan.rounds + 1)]
        if mechanism.terms.charges_each_device(plan.cohort_rate):
            events = [(mechanism.event(plan, 1), mechanism.participation_limit(plan))]
        spent = epsilon_of_events(events, mechanism.delta_for(plan))
        target = mechanism.epsilon
        assert spent == target if not case.finite else 0.99 * target <= spent <= target

    def test_fields_travel_as_json_and_build_the_same(self, case: MechanismCase) -> None:
        """Every device builds the mechanism from the run's document: its fields are all that it is."""
        fields = json.loads(json.dumps(asdict(case.mechanism), allow_nan=False))  # type: ignore[call-overload]
        kind = type(case.mechanism)
        target = f"{kind.__module__}.{kind.__qualname__}"
        if not is_ours(target):
            allow(kind.__module__.partition(".")[0])
        assert instantiate({"_target_": target, **fields}, "privacy") == case.mechanism
        again = case.mechanism.calibrated(case.plan, math.inf if case.plan.trains else SENSITIVITY)
        assert again == case.mechanism

    def test_released_variance_is_the_calibrated_one(self, case: MechanismCase) -> None:
        """On every coordinate, in every round, around the sum of what the devices sent."""
        updates = [vector(np.linspace(-0.1, 0.1, 6)), vector(np.linspace(0.2, 0, 6)), vector(np.zeros(6))]
        clean = sum(flat(u) for u in updates)
        for round_number in range(1, case.plan.rounds + 1):
            std = self.expected_std(case, 3, round_number)
            noise = np.stack([released_sum(case, updates, round_number) for _ in range(DRAWS)]) - clean
            if not std:
                np.testing.assert_allclose(noise, 0, atol=1e-6)
                continue
            assert noise.std() == pytest.approx(std, rel=0.06)
            assert np.abs(noise.mean(0)).max() < 7 * std / DRAWS**0.5
            assert (noise.std(0) > 0.8 * std).all()

    def test_without_noise_the_sum_is_linear_in_the_devices(self, case: MechanismCase) -> None:
        """What is released is the sum, and nothing of one device depends on another."""
        one, two = vector(np.linspace(0, 0.2, 6)), vector(np.linspace(0.1, -0.2, 6))
        both = released_sum(case, [one, two], silent=True)
        apart = released_sum(case, [one], silent=True) + released_sum(case, [two], silent=True)
        np.testing.assert_allclose(both, apart, atol=1e-6)
        np.testing.assert_allclose(both, flat(one) + flat(two), atol=STEP if case.finite else 1e-6)

    def test_a_device_counts_once_and_is_bounded_whatever_it_sends(self, case: MechanismCase) -> None:
        """At user level: huge, infinite or no numbers, and a weight of a million, move the sum by one clip at most."""
        mechanism = case.mechanism
        if mechanism.terms.unit != Unit.USER or mechanism.pools_users or mechanism.clip is None:
            pytest.skip("bounds something else than a device's whole update")
        for values in (np.full(6, 1e30), np.array([np.nan, 1, 1, 1, 1, 1]), np.array([np.inf, 0, 0, 0, 0, 0])):
            released = mechanism.privatize_update(vector(values, count=10**6), Silence())
            assert released.count == 1 and released.finite()
            assert np.linalg.norm(flat(released)) <= mechanism.clip * (1 + 1e-6)

    def test_the_denominator_does_not_depend_on_who_arrived(self, case: MechanismCase) -> None:
        """A mean over those who came would tell how many came."""
        mechanism, denominators = case.mechanism, set[float]()
        for count in (0, 1, 17, 60):
            arrived = replace(mechanism.privatize_update(vector(np.zeros(6)), mechanism.random(2)), count=count)
            aggregate = mechanism.privatize_aggregate(arrived, case.plan, 1, mechanism.random(1))
            denominators.add(aggregate.denominator)
        expected = {case.plan.expected_cohort} if case.finite else {1.0, 17.0, 60.0}
        assert denominators == expected

    def test_events_come_from_the_public_plan_alone(self, case: MechanismCase) -> None:
        """What a round costs is known before it begins, and stays what it was."""
        before = case.mechanism.event(case.plan, 1)
        released_sum(case, [vector(np.ones(6))])
        assert case.mechanism.event(case.plan, 1) == before

    def test_it_says_whether_devices_train_by_dp_sgd(self, case: MechanismCase) -> None:
        """Before it is calibrated as after: settings that then have no effect are named by it."""
        raw: Mechanism = replace(case.mechanism, **{"noise_multiplier": None} if case.finite else {})  # type: ignore[type-var]
        assert raw.trains_by_dp_sgd == case.mechanism.trains_by_dp_sgd == (case.mechanism.dp_sgd() is not None)

    def test_terms_are_complete(self, case: MechanismCase) -> None:
        """No epsilon without a unit, a relation, whom to trust, against whom, and what it covers."""
        terms = case.mechanism.terms
        assert terms.unit in set(Unit) and terms.relation in set(Relation) and terms.trust in set(Trust)
        assert terms.adversary
        assert terms.release_set
        assert 0 < case.mechanism.delta_for(case.plan) < 1 / case.plan.population
