"""The grid: bounds that hold in whole numbers whatever floats did, the noise's variance, and integers that travel."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrec.errors import FedrecError
from fedrec.privacy.grid import (
    MOST_BITS,
    Grid,
    fitted,
    on_grid,
    pack_integers,
    packed_bits,
    packed_words,
    reach,
    rounded,
    squared_length,
    unpack_integers,
)

ANY = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
SMALL = hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-2, 2, width=32))


def exact_square(whole: np.ndarray) -> int:
    return sum(int(number) ** 2 for number in whole.reshape(-1).tolist())


@settings(max_examples=300)
@given(ANY | SMALL, st.integers(1, MOST_BITS), st.sampled_from([1e-30, 0.3, 1.0, 1e30]))
def test_no_float_makes_a_contribution_too_long(values: np.ndarray, bits: int, clip: float) -> None:
    whole = on_grid(values, Grid(bits, clip))
    assert whole.dtype == np.int64 and whole.shape == values.shape
    assert exact_square(whole) <= 4**bits


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_makes_zeros_and_the_largest_floats_are_clipped(bad: float) -> None:
    grid = Grid(12, 1.0)
    assert not on_grid(np.array([1.0, bad], np.float32), grid).any()
    assert not on_grid(np.array([1e300, 1e300]), grid).any()
    assert on_grid(np.array([3e38, 4e38 / 1.5, -1e38], np.float32), grid).any()


def test_golden_values() -> None:
    """By hand: 4,096 steps of 1/2048; 0.25 is 512 steps; what is too long keeps its direction."""
    grid = Grid.of(2.0, 5)
    assert grid == Grid(12, 2.0) and grid.step == 1 / 2048
    assert on_grid(np.array([0.25, -1.0, 0.0002441, 0.0002442], np.float32), grid).tolist() == [512, -2048, 0, 1]
    assert on_grid(np.array([30.0, 40.0]), grid).tolist() == [2457, 3276]  # 2457.6, 3276.8 would round beyond
    assert grid.values(np.array([512, -1])).tolist() == [0.25, -1 / 2048]


def test_within_the_bound_a_value_moves_by_half_a_step() -> None:
    grid, values = Grid(14, 3.0), np.random.default_rng(1).normal(0, 0.01, 5000)
    assert np.abs(grid.values(on_grid(values, grid)) - values).max() <= grid.step / 2 * (1 + 1e-12)


def test_rounding_that_lengthens_is_taken_back_in_few_passes() -> None:
    """Coordinates just above a half all round up: the worst that there is."""
    for size in (7, 1000, 60_000):
        grid, passes = Grid.of(1.0, size), 0

        def squares(scales: np.ndarray, size: int = size) -> np.ndarray:
            nonlocal passes
            passes += 1
            return squared_length(rounded(np.full(size, 1.0), float(scales[0])))

        scale = (math.ceil(grid.length / math.sqrt(size)) + 0.5000001) / 1.0
        found = fitted(np.array([scale]), grid.length, squares)
        assert squares(found)[0] <= grid.length**2
        assert passes <= 6


def test_what_can_not_be_fitted_is_left_out() -> None:
    assert fitted(np.array([1.0, 0.5]), 4, lambda scales: np.array([np.inf, 1.0])).tolist() == [0.0, 0.5]
    assert fitted(np.array([1.0]), 4, lambda scales: np.array([np.nan])).tolist() == [0.0]


@given(st.integers(1, 1 << 40))
def test_the_bits_follow_the_rule(numbers: int) -> None:
    """The smallest k of 12 and more with 2^k at least 16 sqrt(d), in whole numbers."""
    bits = min(Grid.of(1.0, numbers).bits, MOST_BITS)
    assert bits == MOST_BITS or (4**bits >= 256 * numbers and (bits == 12 or 4 ** (bits - 1) < 256 * numbers))


def test_the_bits_of_some_sizes_and_where_noise_is_great() -> None:
    assert [Grid.of(1.0, d).bits for d in (0, 1, 65_536, 65_537, 10**6, 10**7)] == [12, 12, 12, 13, 14, 16]
    assert Grid.of(1.0, 10**6, 100.0).bits == 14
    assert Grid.of(1.0, 10**6, 10_000.0).bits == 7
    assert 10_000 * 2**7 <= 2**21 < 10_000 * 2**8


@given(st.floats(1e-12, 1e4), st.integers(1, 16))
def test_the_variance_is_that_of_the_gaussian_and_six(multiplier: float, bits: int) -> None:
    """In exact fractions; without the six it would be no post-processing of the Gaussian."""
    variance, square = Grid(bits, 0.7).variance(multiplier), (Fraction(multiplier) * 2**bits) ** 2
    assert square + 6 <= variance < square + 8


@pytest.mark.parametrize("bits, clip", [(0, 1.0), (MOST_BITS + 1, 1.0), (12, 0.0), (12, math.inf), (12, math.nan)])
def test_a_grid_that_can_not_be_is_refused(bits: int, clip: float) -> None:
    with pytest.raises(FedrecError):
        Grid(bits, clip)


@given(st.data(), st.integers(0, 200), st.integers(0, 62))
def test_packed_integers_arrive(data: st.DataObject, numbers: int, power: int) -> None:
    largest = data.draw(st.integers(0, 2**power - 1))
    whole = data.draw(hnp.arrays(np.int64, numbers, elements=st.integers(-largest, largest)))
    words = pack_integers(whole, largest)
    assert words.shape == (packed_words(numbers, largest),)
    assert unpack_integers(words, numbers, largest).tolist() == whole.tolist()


def test_packing_is_as_short_as_said_and_holds_nothing_else() -> None:
    assert packed_bits(2**12) == 14 and packed_bits(2**12 - 1) == 13
    with pytest.raises(FedrecError, match="beyond 7"):
        pack_integers(np.array([0, 8]), 7)
    words = pack_integers(np.array([7, -7]), 7)
    changed: list[Any] = [words[:-1], words.astype(np.int64), words.reshape(1, -1)]
    for wrong in changed:
        with pytest.raises(FedrecError, match="are 4 words"):
            unpack_integers(wrong, 2, 7)
    words[:] = ~np.uint64(0)
    with pytest.raises(FedrecError, match="beyond 7"):
        unpack_integers(words, 2, 7)


def test_the_reach_of_sums() -> None:
    assert reach(3, 4096, 0) == 3 * 4096
    assert reach(4, 10, 100) == 40 + 28 * 21
