"""The grids of DP-SGD, and noise of many steps that is drawn at once."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.privacy.discrete_gaussian import LARGEST_DEVIATION
from fedrec.privacy.mechanisms.gateway import GatewayLevel
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.noise import SeededNoise
from fedrec.privacy.step_grid import SMALL, StepGrid, summed_noise


def test_both_mechanisms_say_their_grids() -> None:
    one = InteractionLevel(clip=0.5, noise_multiplier=2.0).dp_sgd().grid()
    assert (one.vectors.bits, one.products.bits, one.finer) == (10, 18, 256)
    assert one.vectors.clip == one.products.clip == 0.5 and one.longest == 4**18
    users = GatewayLevel(clip=2.0, noise_multiplier=2.0).dp_sgd().grid()
    assert (users.vectors.bits, users.products.bits, users.slope_scale) == (12, 18, 2**-2)


@given(st.floats(1e-12, 1e5), st.sampled_from([10, 12]))
def test_every_multiplier_has_grids_whose_noise_can_be_drawn(z: float, bits: int) -> None:
    """With the variance rule of all mechanisms, on each grid: D(v) hides what N(0, (z clip)^2) hides."""
    found = StepGrid.of(1.0, z, bits)
    for grid in (found.vectors, found.products):
        variance = grid.variance(z)
        assert variance <= LARGEST_DEVIATION**2 and variance >= (z * grid.length) ** 2 + 6 - 1e-3 * variance
    assert found.vectors.length * found.finer == found.products.length


class Recorded(SeededNoise):
    """Draws that say which variance they are of."""

    def __init__(self) -> None:
        super().__init__(3)
        self.asked: list[tuple[tuple[int, ...], int]] = []

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> np.ndarray:
        self.asked.append((shape, variance))
        return np.full(shape, 1, np.int32)


@given(st.lists(st.integers(0, 5000), max_size=30), st.sampled_from([(), (3,), (2, 2)]))
def test_each_place_gets_the_variance_of_its_count(counts: list[int], shape: tuple[int, ...]) -> None:
    """What is drawn adds up, place by place, to count times the variance: no draw is shared, none is missing."""
    source, found = Recorded(), np.zeros(len(counts), np.int64)

    class Placed(Recorded):
        def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> np.ndarray:
            assert variance <= LARGEST_DEVIATION**2
            return np.full(shape, variance // 50, np.int64)

    found = summed_noise(Placed(), np.array(counts, np.int64), shape, 50)
    assert found.shape == (len(counts), *shape)
    assert (found == np.array(counts, np.int64).reshape(-1, *(1,) * len(shape))).all()
    summed_noise(source, np.array(counts, np.int64), shape, 50)
    assert all(variance % 50 == 0 for _, variance in source.asked)


def test_counts_beyond_the_largest_table_take_several_draws() -> None:
    source = Recorded()
    summed_noise(source, np.array([SMALL + 1, 5]), (1,), LARGEST_DEVIATION**2 // 2)
    assert max(variance for _, variance in source.asked) <= LARGEST_DEVIATION**2
    total = sum(variance * math.prod(shape) for shape, variance in source.asked)
    assert total == (SMALL + 6) * (LARGEST_DEVIATION**2 // 2)


@pytest.mark.parametrize("counts", [[1] * 4000, [5] * 4000, [3, 700] * 2000, [1000, 0] * 2000])
def test_the_noise_of_many_steps_has_the_law_of_their_sum(counts: list[int]) -> None:
    """Variance, and the tail beyond three deviations, of each count; a count of nothing gives nothing."""
    drawn = summed_noise(SeededNoise(8), np.array(counts), (4,), 900).astype(np.float64)
    for count in set(counts):
        own = drawn[np.array(counts) == count].ravel()
        if not count:
            assert not own.any()
            continue
        scaled = own / math.sqrt(count * 900)
        assert abs(scaled.var() - 1) < 5 * math.sqrt(2 / len(own)) and abs(scaled.mean()) < 5 / math.sqrt(len(own))
        assert 0.2 < (np.abs(scaled) > 3).mean() / 0.0027 < 2.5
        assert (own == own.round()).all()
