"""Noise: the right law, nothing left un-noised, and no stream twice.

Drawn from the operating system, so every bound lies where an honest source passes it in all but 1e-7 of the runs.
"""

import os

import numpy as np
import pytest
from scipy import stats

from fedrec.errors import FedrecError
from fedrec.privacy.noise import BLOCK, NoiseBase, SeededNoise, Stream, SystemNoise, make_noise_source

SOURCES = [SystemNoise(), SeededNoise(1, 2)]
pytestmark = pytest.mark.system_noise


class Words(NoiseBase):
    """A source of chosen words, to reach the ends of the range."""

    def __init__(self, *words: int) -> None:
        self._chosen = np.array(words, np.uint64)

    def _stream(self, about: int) -> Stream:
        left = iter(np.resize(self._chosen, 100))
        return lambda count: np.array([next(left) for _ in range(count)], np.uint64)

    def keyed(self, users: np.ndarray, index: np.ndarray) -> np.ndarray:
        return self._stream(0)(index.size).reshape(index.shape)


@pytest.mark.parametrize("random", SOURCES, ids=["system", "seeded"])
def test_gaussians_follow_the_normal_law(random: NoiseBase) -> None:
    draws = random.gaussian((1_000_000,), 1.0)
    assert stats.kstest(draws, "norm").pvalue > 1e-8
    n = len(draws)
    assert abs(draws.mean()) < 6 / n**0.5
    assert abs(draws.var() - 1) < 6 * (2 / n) ** 0.5
    assert abs((draws**4).mean() - 3) < 6 * (96 / n) ** 0.5
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 6 / n**0.5
    pairs = draws[: 2 * BLOCK].reshape(2, BLOCK)
    assert abs(np.asarray(np.corrcoef(pairs**2))[0, 1]) < 6 / BLOCK**0.5


@pytest.mark.parametrize("random", SOURCES, ids=["system", "seeded"])
def test_tails_hold_what_they_should(random: NoiseBase) -> None:
    size, batches = 1_000_000, 6
    found = {4.0: 0, 5.0: 0}
    for _ in range(batches):
        draws = np.abs(random.gaussian((size,), 1.0))
        for sigma in found:
            found[sigma] += int((draws > sigma).sum())
    for sigma, count in found.items():
        expected = 2 * stats.norm.sf(sigma) * size * batches
        assert stats.poisson.cdf(count, expected) > 1e-8
        assert stats.poisson.sf(count - 1, expected) > 1e-8


def test_the_largest_and_smallest_words_give_finite_draws_beyond_eight_sigma() -> None:
    for end, sign in ((0x7FFFFFFF, 1), (0x80000000, -1)):
        two = end << 32 | end  # both halves of a word lie in the tail
        draws = Words(two, 0, 2**64 - 1).gaussian((2,), 2.0) * sign / 2
        assert 10 < draws[0] < 10.2
        assert draws[1] == pytest.approx(stats.norm.isf(2.0**-13), rel=1e-6)
    assert Words(0).uniform(1)[0] == 0.0
    assert Words(2**64 - 1).uniform(1)[0] == 1 - 2.0**-53


def test_a_draw_is_the_inverse_of_the_distribution_function() -> None:
    shares = np.array([-0.9997, -0.5, -1e-6, 0.25, 0.6, 0.99])
    words = (shares * 2**31).astype(np.int32).view(np.uint64)
    found = Words(*words.tolist()).gaussian((6,), 3.0)
    exact = words.view(np.int32) / 2.0**31
    np.testing.assert_allclose(found, 3 * stats.norm.ppf((1 + exact) / 2), rtol=2e-5)


def test_the_tail_meets_the_body_without_a_gap_or_a_step() -> None:
    """The share of draws in narrow bins around the edge, where one way of drawing hands over to the other."""
    edge = stats.norm.isf(2.0**-13)
    draws = np.abs(np.concatenate([SystemNoise().gaussian((4_000_000,), 1.0) for _ in range(5)]))
    for low, high in ((edge - 0.2, edge - 0.05), (edge - 0.05, edge), (edge, edge + 0.05), (edge + 0.05, edge + 0.2)):
        expected = 2 * (stats.norm.sf(low) - stats.norm.sf(high)) * len(draws)
        count = int(((draws > low) & (draws <= high)).sum())
        assert abs(count - expected) < 6 * expected**0.5


@pytest.mark.parametrize("random", SOURCES, ids=["system", "seeded"])
def test_every_length_is_noised_to_its_end(random: NoiseBase) -> None:
    for length in [*range(1, 201), BLOCK - 1, BLOCK, BLOCK + 1]:
        draws = random.gaussian((length,), 1.0)
        assert draws.shape == (length,)
        assert draws.dtype == np.float32
        assert draws[-1] != 0
        assert np.count_nonzero(draws) >= length - 2  # one draw in 2^32 is a zero
        assert len(np.unique(draws)) >= 0.99 * length - 3  # and two are the same in single precision now and then


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3), (3, 1, 5)])
def test_every_shape(shape: tuple[int, ...]) -> None:
    draws = SystemNoise().gaussian(shape, 1.0)
    assert draws.shape == shape
    assert np.count_nonzero(draws) == draws.size


def test_last_coordinate_has_the_full_variance() -> None:
    last = np.array([SystemNoise().gaussian((7,), 3.0)[-1] for _ in range(20_000)])
    assert abs(last.var() / 9 - 1) < 6 * (2 / len(last)) ** 0.5


@pytest.mark.parametrize("random", SOURCES, ids=["system", "seeded"])
def test_uniforms_are_uniform(random: NoiseBase) -> None:
    draws = random.uniform(200_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-8
    assert random.uniform(0).shape == (0,)
    assert np.count_nonzero(np.mod(draws * 2**32, 1)) > 199_000  # more than 32 bits


def test_two_sources_share_no_stream() -> None:
    keys = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (2**32,), (2**32 + 1,), (1, 1), (2**63,)]
    streams = [SeededNoise(*key).gaussian((2_000,), 1.0) for key in keys]
    streams += [SystemNoise().gaussian((2_000,), 1.0) for _ in range(3)]
    correlations = np.asarray(np.corrcoef(streams))[np.triu_indices(len(streams), 1)]
    assert np.abs(correlations).max() < 8 / 2_000**0.5


def test_a_seeded_source_repeats_and_moves_on() -> None:
    first, again = SeededNoise(4, 2), SeededNoise(4, 2)
    np.testing.assert_array_equal(first.gaussian((9,), 1.0), again.gaussian((9,), 1.0))
    np.testing.assert_array_equal(first.uniform(9), again.uniform(9))
    assert not np.array_equal(first.uniform(9), first.uniform(9))


def test_torch_and_numpy_seeds_do_not_reach_the_system_source() -> None:
    draws = []
    for _ in range(2):
        np.random.seed(0)
        draws.append(SystemNoise().gaussian((4,), 1.0))
    assert not np.array_equal(*draws)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_fork_draws_its_own() -> None:
    random = SystemNoise()
    random.gaussian((5,), 1.0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random.gaussian((5,), 1.0).tobytes())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = np.frombuffer(pipe.read(20), np.float32)
    os.waitpid(child, 0)
    assert len(theirs) == 5
    assert np.isin(theirs, random.gaussian((5,), 1.0)).sum() <= 1


@pytest.mark.parametrize("std", [-1.0, float("nan"), float("inf")])
def test_impossible_deviations_are_errors(std: float) -> None:
    with pytest.raises(FedrecError, match="standard deviation"):
        SystemNoise().gaussian((2,), std)


def test_source_follows_the_configuration() -> None:
    assert isinstance(make_noise_source("system", (1,)), SystemNoise)
    assert isinstance(make_noise_source("seeded", (1,)), SeededNoise)
    with pytest.raises(FedrecError, match="whole numbers"):
        SeededNoise(-1)
