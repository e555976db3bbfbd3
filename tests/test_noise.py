"""Noise: the right law, nothing left un-noised, and no stream twice."""

import os

import numpy as np
import pytest
from scipy import stats

from fedrec.errors import FedrecError
from fedrec.privacy.noise import PAIRS, SeededRandom, SystemRandom, WordSource, source

SOURCES = [SystemRandom(), SeededRandom(1, 2)]


class Words(WordSource):
    """A source of chosen words, to reach the ends of the range."""

    def __init__(self, *words: int) -> None:
        self._chosen = np.array(words, np.uint64)

    def _words(self, count: int) -> np.ndarray:
        return np.resize(self._chosen, count)

    def keyed(self, users: np.ndarray, index: np.ndarray) -> np.ndarray:
        return self._words(index.size).reshape(index.shape)


@pytest.mark.parametrize("random", SOURCES, ids=["system", "seeded"])
def test_gaussians_follow_the_normal_law(random: WordSource) -> None:
    draws = random.gaussian((1_000_000,), 1.0)
    assert stats.kstest(draws, "norm").pvalue > 1e-4
    n = len(draws)
    assert abs(draws.mean()) < 5 / n**0.5
    assert abs(draws.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((draws**4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / n**0.5
    pairs = draws[: 2 * PAIRS].reshape(2, PAIRS)
    assert abs(np.corrcoef(pairs**2)[0, 1]) < 5 / PAIRS**0.5


@pytest.mark.parametrize("random", SOURCES, ids=["system", "seeded"])
def test_tails_hold_what_they_should(random: WordSource) -> None:
    size, batches = 1_000_000, 6
    found = {4.0: 0, 5.0: 0}
    for _ in range(batches):
        draws = np.abs(random.gaussian((size,), 1.0))
        for sigma in found:
            found[sigma] += int((draws > sigma).sum())
    for sigma, count in found.items():
        expected = 2 * stats.norm.sf(sigma) * size * batches
        assert stats.poisson.cdf(count, expected) > 1e-5
        assert stats.poisson.sf(count - 1, expected) > 1e-5


def test_the_largest_and_smallest_words_give_finite_draws_beyond_eight_sigma() -> None:
    top = 2**64 - 1
    assert 8.5 < np.abs(Words(top, 2**63).gaussian((2,), 1.0)).max() < 8.6
    for radius in (0, 1 << 11, 2**63, top):
        for angle in (0, 1 << 11, 2**62, 2**63, 3 * 2**62, top):
            assert np.isfinite(Words(radius, angle).gaussian((2,), 1.0)).all()
    assert Words(0).uniform(1)[0] == 0.0
    assert Words(top).uniform(1)[0] == 1 - 2.0**-53


def test_a_pair_is_box_and_mullers() -> None:
    u, v = 0.3, 0.7
    pair = Words(int((1 - u) * 2**64), int(v * 2**64)).gaussian((2,), 2.0)
    radius, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * (v - 0.5)
    np.testing.assert_allclose(pair, [2 * radius * np.cos(angle), 2 * radius * np.sin(angle)], rtol=1e-12)


@pytest.mark.parametrize("random", SOURCES, ids=["system", "seeded"])
def test_every_length_is_noised_to_its_end(random: WordSource) -> None:
    for length in [*range(1, 201), 2 * PAIRS - 1, 2 * PAIRS, 2 * PAIRS + 1]:
        draws = random.gaussian((length,), 1.0)
        assert draws.shape == (length,)
        assert draws.dtype == np.float64
        assert np.count_nonzero(draws) == length == len(np.unique(draws))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3), (3, 1, 5)])
def test_every_shape(shape: tuple[int, ...]) -> None:
    draws = SystemRandom().gaussian(shape, 1.0)
    assert draws.shape == shape
    assert np.count_nonzero(draws) == draws.size


def test_last_coordinate_has_the_full_variance() -> None:
    last = np.array([SystemRandom().gaussian((7,), 3.0)[-1] for _ in range(20_000)])
    assert abs(last.var() / 9 - 1) < 5 * (2 / len(last)) ** 0.5


@pytest.mark.parametrize("random", SOURCES, ids=["system", "seeded"])
def test_uniforms_are_uniform(random: WordSource) -> None:
    draws = random.uniform(200_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-4
    assert random.uniform(0).shape == (0,)
    assert np.count_nonzero(np.mod(draws * 2**32, 1)) > 199_000  # more than 32 bits


def test_two_sources_share_no_stream() -> None:
    keys = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (2**32,), (2**32 + 1,), (1, 1), (2**63,)]
    streams = [SeededRandom(*key).gaussian((2_000,), 1.0) for key in keys]
    streams += [SystemRandom().gaussian((2_000,), 1.0) for _ in range(3)]
    correlations = np.corrcoef(streams)[np.triu_indices(len(streams), 1)]
    assert np.abs(correlations).max() < 5 / 2_000**0.5


def test_a_seeded_source_repeats_and_moves_on() -> None:
    first, again = SeededRandom(4, 2), SeededRandom(4, 2)
    np.testing.assert_array_equal(first.gaussian((9,), 1.0), again.gaussian((9,), 1.0))
    np.testing.assert_array_equal(first.uniform(9), again.uniform(9))
    assert not np.array_equal(first.uniform(9), first.uniform(9))


def test_torch_and_numpy_seeds_do_not_reach_the_system_source() -> None:
    draws = []
    for _ in range(2):
        np.random.seed(0)
        draws.append(SystemRandom().gaussian((4,), 1.0))
    assert not np.array_equal(*draws)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_fork_draws_its_own() -> None:
    random = SystemRandom()
    random.gaussian((5,), 1.0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random.gaussian((5,), 1.0).tobytes())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = np.frombuffer(pipe.read(40))
    os.waitpid(child, 0)
    assert len(theirs) == 5
    assert not np.isin(theirs, random.gaussian((5,), 1.0)).any()


@pytest.mark.parametrize("std", [-1.0, float("nan"), float("inf")])
def test_impossible_deviations_are_errors(std: float) -> None:
    with pytest.raises(FedrecError, match="standard deviation"):
        SystemRandom().gaussian((2,), std)


def test_source_follows_the_configuration() -> None:
    assert isinstance(source("system", (1,)), SystemRandom)
    assert isinstance(source("seeded", (1,)), SeededRandom)
    with pytest.raises(FedrecError, match="whole numbers"):
        SeededRandom(-1)
