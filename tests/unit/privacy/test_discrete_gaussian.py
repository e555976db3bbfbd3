"""The discrete Gaussian: tables that say exactly its law, and draws that follow them to the last place.

Drawn from the operating system, so every bound lies where an honest source passes it in all but 1e-7 of the runs.
"""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from fedrec.errors import FedrecError
from fedrec.privacy import discrete_gaussian
from fedrec.privacy.discrete_gaussian import (
    BLOCK,
    ESCAPE,
    ESCAPE_BITS,
    FIXED_BITS,
    ONE_TABLE,
    SMOOTH,
    WORD_BITS,
    AliasTable,
    gaussian_table,
    gaussian_tables,
    gaussian_weights,
    look_up,
)
from fedrec.privacy.noise import NoiseBase, SeededNoise, SystemNoise

pytestmark = pytest.mark.system_noise
VARIANCES = [8, 4097, 1 << 20]


def says(table: AliasTable) -> dict[int, int]:
    """Return for how many of the 2^32 words a table says what, column by column, in whole numbers."""
    found = dict[int, int]()
    room = 1 << table.shift
    for column, last in enumerate(table.last.tolist()):
        own = last - (column << table.shift) + 1
        assert (0 if column else 1) <= own <= room
        for number, words in zip(table.numbers[2 * column : 2 * column + 2].tolist(), (own, room - own), strict=True):
            found[number] = found.get(number, 0) + words
    return found


def law_of(table: AliasTable) -> dict[int, Fraction]:
    """Return the exact probability of each number that a table can give, escapes followed."""
    words = says(table)
    cuts = [0, *table.escape_cuts, 1 << ESCAPE_BITS]
    places = range(len(cuts) - 1)
    escaped = Fraction(words[ESCAPE], 1 << WORD_BITS)
    law = {
        table.scale * (p + table.lowest): escaped * Fraction(cuts[p + 1] - cuts[p], 1 << ESCAPE_BITS) for p in places
    }
    for number, many in words.items():
        if number != ESCAPE:
            law[number] += Fraction(many, 1 << WORD_BITS)
    return law


@pytest.mark.parametrize("variance", VARIANCES)
def test_weights_are_those_of_the_exponential_function(variance: int) -> None:
    weights, sigma = gaussian_weights(Fraction(variance)), math.isqrt(variance)
    with localcontext(prec=110):
        for k in (0, 1, sigma, 7 * sigma, 13 * sigma):
            exact = (Decimal(-k * k) / (2 * variance)).exp() * (1 << FIXED_BITS)
            assert abs(weights[k] - exact) < 1 << 64


@pytest.mark.parametrize("variance", VARIANCES)
def test_a_table_says_the_law_up_to_its_total_variation(variance: int) -> None:
    weights = gaussian_weights(Fraction(variance))
    law, total = law_of(gaussian_table(Fraction(variance), 1)), 2 * sum(weights) - weights[0]
    assert sum(law.values()) == 1
    off = sum((abs(law[k] - Fraction(weights[abs(k)], total)) for k in law), Fraction(0)) / 2
    beyond = Fraction(2 * weights[-1] * 2, total)  # a geometric series of ratio under 1/2 starts past the table's end
    reach = len(weights) - 1
    ratio = math.exp(-(2 * reach + 1) / (2 * variance))
    assert off + beyond / Fraction(1 - ratio) < Fraction(1, 1 << 130)


def test_a_sum_of_two_tables_is_one_law() -> None:
    """The lemma, in 80 digits: P(x + scale y = k) over exp(-k^2 / (2 v)) is the same for every k."""
    deviation = ONE_TABLE + 1
    _, coarse = gaussian_tables(deviation**2)
    scale = coarse.scale
    v1 = Fraction((SMOOTH + 1) * scale**2)
    v2 = (deviation**2 - v1) / scale**2
    assert 1 / (1 / v2 + scale**2 / v1) >= SMOOTH
    assert v1 + scale**2 * v2 == deviation**2
    with localcontext(prec=80):

        def ratio(k: int) -> Decimal:
            near = round(k * scale * float(v2) / deviation**2)
            each = [
                Fraction((k - scale * y) ** 2) / v1 + Fraction(y * y) / v2 - Fraction(k * k, deviation**2)
                for y in range(near - 60, near + 61)
            ]
            return sum(((-Decimal(e.numerator) / (2 * Decimal(e.denominator))).exp() for e in each), Decimal())

        found = [ratio(k) for k in (0, 1, scale // 2, 77, 12 * deviation + 5)]
        assert max(found) / min(found) - 1 < Decimal(2) ** -160


def fit(drawn: np.ndarray, deviation: int) -> float:
    """Return the p-value of draws under the discrete Gaussian, in cells of about equal probability."""
    k = np.arange(-15 * deviation, 15 * deviation + 1)
    due = np.exp(-(k**2.0) / (2 * deviation**2))
    due *= len(drawn) / due.sum()
    cell = (np.cumsum(due) / len(drawn) * 200).astype(int).clip(0, 199)
    seen = np.bincount(cell, np.bincount(drawn + 15 * deviation, minlength=len(k)))
    expected = np.bincount(cell, due)
    there = expected > 0
    return float(stats.chisquare(seen[there], expected[there] * seen.sum() / expected[there].sum()).pvalue)


@pytest.mark.parametrize("random", [SystemNoise(), SeededNoise(1, 2)], ids=["system", "seeded"])
@pytest.mark.parametrize("deviation", [3, 300, 30_000])
def test_draws_follow_the_law(random: NoiseBase, deviation: int) -> None:
    drawn = random.discrete_gaussian((1 << 20,), deviation**2)
    assert drawn.dtype == np.int32
    assert fit(drawn, deviation) > 1e-8
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 6 / len(drawn) ** 0.5


@pytest.mark.parametrize("deviation", [64, 20_000])
def test_tails_hold_what_they_should(deviation: int) -> None:
    drawn = np.abs(np.concatenate([SystemNoise().discrete_gaussian((1 << 20,), deviation**2) for _ in range(6)]))
    for far in (4, 5):
        due = 2 * stats.norm.sf(far + 0.5 / deviation) * len(drawn)
        seen = int((drawn > far * deviation).sum())
        assert stats.poisson.cdf(seen, due) > 1e-8
        assert stats.poisson.sf(seen - 1, due) > 1e-8


@pytest.mark.parametrize("deviation", [64, 4096, 8192])
def test_remainders_are_uniform(deviation: int) -> None:
    """Of two tables neither may favour a residue: the lattice of the coarse one must not show."""
    drawn = SystemNoise().discrete_gaussian((1 << 18,), deviation**2)
    for modulus in range(2, 17):
        assert stats.chisquare(np.bincount(drawn % modulus, minlength=modulus)).pvalue > 1e-8


def test_escapes_follow_what_the_floors_cut_off() -> None:
    table, weights = gaussian_table(Fraction(90_000), 1), gaussian_weights(Fraction(90_000))
    both = weights[:0:-1] + weights
    stream = SystemNoise()._stream(1)
    drawn = table.draw_escapes(40_000, stream)
    total = sum(both)
    due = np.array([(weight << WORD_BITS) % total / total for weight in both])
    seen = np.bincount(drawn - table.lowest, minlength=len(both))
    cell = (np.cumsum(due) / due.sum() * 100).astype(int).clip(0, 99)
    expected = np.bincount(cell, due)
    assert stats.chisquare(np.bincount(cell, seen), expected * len(drawn) / expected.sum()).pvalue > 1e-8


def test_a_word_that_says_escape_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = gaussian_table(Fraction(10_000), 3)
    column = int(np.flatnonzero(table.numbers == ESCAPE)[0]) // 2
    word = int(table.last[column]) + int(table.numbers[2 * column] != ESCAPE)
    words = np.array([word, 1 << 31, word], np.uint32)
    assert look_up(words, table.last, table.numbers, table.shift).tolist()[0] == ESCAPE
    given = iter([np.array([0, 0, 2**64 - 1, 2**64 - 1], np.uint64)])
    found = table.draw(words, lambda count: next(given))
    far = table.lowest * 3
    assert found[0] < far * 0.5
    assert found[2] > -far * 0.5
    assert abs(found[1]) < ESCAPE


@pytest.mark.parametrize("deviation", [3000, 6000])
def test_every_length_is_noised_to_its_end(deviation: int) -> None:
    for length in [*range(201), BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3]:
        drawn = SystemNoise().discrete_gaussian((length,), deviation**2)
        assert drawn.shape == (length,)
        assert np.count_nonzero(drawn[-8:]) >= min(length, 8) - 4
        assert len(np.unique(drawn)) >= min(0.9 * length - 3, 5 * deviation**0.9)


def test_every_shape_and_seed() -> None:
    for shape in ((), (0,), (1,), (3, 0), (2, 3)):
        assert SystemNoise().discrete_gaussian(shape, 10**6).shape == shape
    one, two = (SeededNoise(4, 2).discrete_gaussian((70_001,), 10**8) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, SeededNoise(4, 3).discrete_gaussian((70_001,), 10**8))


@pytest.mark.parametrize("variance", [-1, 0, 7, (1 << 52) + 1])
def test_a_variance_without_a_table_is_named(variance: int) -> None:
    with pytest.raises(FedrecError, match="grid steps squared"):
        SystemNoise().discrete_gaussian((2,), variance)


def test_tables_are_kept_by_whole_numbers() -> None:
    assert gaussian_tables(10**6)[0] is gaussian_tables(10**6)[0]
    assert gaussian_tables(10**6)[0] is not gaussian_tables(10**6 + 1)[0]
    assert discrete_gaussian.gaussian_table.cache_info().maxsize
