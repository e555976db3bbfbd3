"""The bound on what an honest device releases: never passed by one, and by a value that would ruin a model always."""

import numpy as np
import pytest

from fedrec.messages import ModelUpdate
from fedrec.privacy.mechanisms.banded import BandedUserLevel
from fedrec.privacy.mechanisms.base import noise_reach
from fedrec.privacy.mechanisms.gateway import GatewayLevel
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.mechanisms.user_adaptive import UserAdaptive
from fedrec.privacy.mechanisms.user_local import UserLocal
from fedrec.privacy.mechanisms.user_secure import UserSecure
from fedrec.privacy.release import Release

PLAN = TrainingPlan(100, 10_000, 1.0, 5, trains=True)
KINDS = (UserLevel, UserAdaptive, UserLocal, UserSecure, BandedUserLevel, GatewayLevel, InteractionLevel, NoPrivacy)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1e10, 1e30, 3e38])
def test_one_huge_value_is_longer_than_any_mechanism_allows(kind: type, value: float) -> None:
    mechanism = kind().calibrated(PLAN, float("inf"))
    bound = mechanism.largest_norm(1000, 1, PLAN, 0.1)
    array = np.zeros(1000, np.float32)
    array[7] = value
    assert 0 < bound < ModelUpdate({"w": array}, 1).norm()


@pytest.mark.parametrize("values", [1, 30, 1000])
def test_no_honest_noise_in_a_hundred_thousand_is_as_long_as_its_bound(values: int) -> None:
    drawn = np.random.default_rng(5)
    longest = max(
        float(np.linalg.norm(drawn.standard_normal((1000, values), np.float32), axis=1).max()) for _ in range(100)
    )
    assert 0.5 * noise_reach(values, 1.0) < longest < noise_reach(values, 1.0)


@pytest.mark.parametrize("kind", [UserLevel, UserAdaptive, UserLocal, UserSecure])
def test_what_a_device_releases_of_its_largest_update_lies_within_the_bound(kind: type) -> None:
    mechanism = kind().calibrated(PLAN, float("inf"))
    update = ModelUpdate({"w": np.full(500, 1e4, np.float32)}, 1)
    released = mechanism.privatize_update(update, mechanism.random(1))
    assert isinstance(released, Release)
    values = sum(array.size for array in released.arrays.values())
    assert released.norm() <= mechanism.largest_norm(values, 1, PLAN, 0.1)
