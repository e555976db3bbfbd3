"""The features of a history against slow loops, on everything and on a few items."""

from dataclasses import replace

import numpy as np
import pytest

from fedrec.models.history_features import HistoryFeatures, Past, feature_kernels, feature_names
from fedrec.models.item_kernels import Cosine, Place, SparseCosine, public_kernels
from tests.support.tiny import catalogue

ITEMS = 12
PUBLIC = replace(catalogue(ITEMS), titles=np.array([f"a {word} {n % 5}" for n, word in enumerate(["heat", "bug"] * 6)]))
PASTS = {"near": Past(3, 0.7), "far": Past(5, 0.95)}


def features() -> tuple[HistoryFeatures, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    table, counts = rng.uniform(0.01, 1, (ITEMS, ITEMS)).astype(np.float32), rng.uniform(1, 9, ITEMS).astype(np.float32)
    kernels = feature_kernels(public_kernels(PUBLIC), PUBLIC)

    def at(rows: np.ndarray, columns: np.ndarray | None) -> np.ndarray:
        return table[rows] if columns is None else table[np.ix_(rows, columns)]

    return HistoryFeatures(kernels, counts, rng.normal(size=ITEMS).astype(np.float32), at, PASTS), table, counts


def slow(found: HistoryFeatures, table: np.ndarray, counts: np.ndarray, history: list[int], item: int) -> list[float]:
    """Every feature as the module's words say it."""
    z = (np.log(counts) - np.log(counts).mean()) / np.log(counts).std()
    pasts = {**PASTS, "last": Past(1), "all": Past()}
    weight = {name: [past.decay**k for k in range(min(len(history), past.items or 99))] for name, past in pasts.items()}
    values = dict[str, float]()
    for name in ("near", "far", "last"):
        values[name] = float(np.log(sum(w * table[history[-1 - k], item] for k, w in enumerate(weight[name])) + 1e-12))
    values |= {"level": float(np.log(counts[item])), "level2": float(z[item] ** 2)}
    values["fresh"] = float(found.of(np.array(history), np.array([item]), [found.names.index("fresh")])[0, 0])
    for past in ("near", "all"):
        share = np.array(weight[past]) / sum(weight[past])
        seen = [history[-1 - k] for k in range(len(share))]
        values[f"level {past}"] = float(share @ z[seen] * z[item])
        for name, kernel in found.kernels.items():
            mean = float(share @ kernel.block(np.array(seen), np.array([item]))[:, 0])
            values[f"{name} {past}"] = float(np.log(mean + 1e-3)) if isinstance(kernel, Place) else mean
    return [values[name] for name in found.names]


@pytest.mark.parametrize("history", [[4], [3, 8, 1], [3, 8, 1, 9, 4, 3, 3, 0]])
def test_features_are_those_of_slow_loops(history: list[int]) -> None:
    found, table, counts = features()
    many = found.of(np.array(history))
    expected = np.array([slow(found, table, counts, history, item) for item in range(ITEMS)]).T
    np.testing.assert_allclose(many, expected, rtol=2e-5, atol=2e-5)
    few = np.array([7, 2, 11])
    np.testing.assert_allclose(found.of(np.array(history), few), many[:, few], rtol=1e-6, atol=1e-6)
    wanted = [2, 0, len(found.names) - 1]
    np.testing.assert_array_equal(found.of(np.array(history), few, wanted), found.of(np.array(history), few)[wanted])


def test_every_kernel_has_its_features_and_the_tests_see_all_kinds() -> None:
    found, *_ = features()
    assert found.names == feature_names(found.kernels) and len(set(found.names)) == len(found.names)
    assert {type(kernel) for kernel in found.kernels.values()} == {Place, Cosine, SparseCosine}
    assert "title order" not in found.kernels


@pytest.mark.parametrize("width", [1.0, 13.0, 1e4])
def test_a_weighted_mean_of_places_is_that_of_the_whole_block(width: float) -> None:
    """By two running sums where exponentials are in range, by the block where they are not; equal places among them."""
    rng = np.random.default_rng(1)
    place = Place((np.round(rng.random(300) * 50) / 50 * width).astype(np.float32))
    rows, weights, columns = rng.integers(0, 300, 40), rng.random(40), rng.permutation(300)[:90]
    expected = weights @ place.block(rows, columns)
    np.testing.assert_allclose(place.mean_block(rows, weights, columns), expected, rtol=2e-5, atol=1e-30)
