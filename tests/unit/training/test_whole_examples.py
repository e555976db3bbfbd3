"""Sums and lengths of whole numbers in floating point: exact, whatever their size, order and precision."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedrec.privacy.step_grid import StepGrid
from fedrec.training.whole_examples import (
    exact_below,
    first_scales,
    fit,
    gram,
    lays_out,
    rounded_inputs,
    squared_lengths,
    sum_examples,
    sum_products,
)

SIZES, SEEDS = st.sampled_from([3, 300, 5000, 1 << 20, (1 << 23) - 1]), st.integers(0, 2**31)


def wholes(seed: int, size: int, *shape: int) -> Tensor:
    """Return whole numbers up to a size in single precision, odd ones near it among them."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(-size, size + 1, shape)
    drawn.reshape(-1)[:: max(drawn.size // 7, 1)] = size
    return torch.from_numpy(drawn).float()


def exact(whole: Tensor) -> np.ndarray:
    """Return Python's own whole numbers."""
    return whole.double().numpy().astype(np.int64).astype(object)


@given(SEEDS, SIZES, st.integers(1, 40))
def test_sums_of_examples_are_exact(seed: int, size: int, examples: int) -> None:
    whole = wholes(seed, size, 2, examples, 3)
    assert (exact(sum_examples(whole)) == exact(whole).sum(1)).all()


@given(SEEDS, st.sampled_from([3, 300, 5000, 1 << 17]), SIZES, st.integers(1, 40))
def test_sums_of_products_are_exact(seed: int, most: int, size: int, places: int) -> None:
    """Near 2^23 and beyond, where products in a shorter format, or a sum that is too long, would show."""
    slopes, inputs = wholes(seed, size, 2, places, 3), wholes(seed + 1, most, 2, places, 4)
    expected = np.einsum("cno,cni->coi", exact(slopes), exact(inputs))
    assert (exact(sum_products(slopes, inputs)) == expected).all()


@given(SEEDS, st.sampled_from([3, 300, 5000, 1 << 20]))
def test_products_of_pairs_are_exact(seed: int, size: int) -> None:
    whole = wholes(seed, size, 2, 3, 5)
    assert (exact(gram(whole)) == np.einsum("cno,cmo->cnm", exact(whole), exact(whole))).all()


def test_products_that_torch_may_round_are_taken_in_double() -> None:
    """With TF32 or bfloat16 allowed, single precision is no longer exact below 2^24."""
    try:
        torch.set_float32_matmul_precision("medium")
        assert exact_below(torch.zeros(1), product=True) == 0
        whole = wholes(5, 4099, 1, 64, 8)
        assert (exact(gram(whole)) == np.einsum("cno,cmo->cnm", exact(whole), exact(whole))).all()
        assert (exact(sum_products(whole, whole)) == np.einsum("cno,cni->coi", exact(whole), exact(whole))).all()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert exact_below(torch.zeros(1), product=True) == 2**24


@given(SEEDS, SIZES, st.integers(1, 200))
def test_a_length_is_exact_or_infinite(seed: int, size: int, width: int) -> None:
    """In single precision a square may be rounded down; a length that is told never is."""
    whole = wholes(seed, size, 4, width)
    for said, numbers in zip(squared_lengths(whole).tolist(), exact(whole), strict=True):
        length = int((numbers**2).sum())
        assert said == length if length < 2**24 else said == np.inf


def test_inputs_are_rounded_about_their_direction() -> None:
    inputs = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-38, 0.0], [1e30, 0.0]])
    whole, norms = rounded_inputs(inputs)
    assert whole.tolist() == [[154, 205], [0, 0], [0, 0], [0, 0]] or whole.tolist()[3] == [256, 0]
    assert norms[0] == 5


def test_gradients_are_laid_out_where_that_is_less_work() -> None:
    assert lays_out(5, 32, 1) and not lays_out(5, 32, 32) and lays_out(500, 32, 32)


@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=20), SEEDS)
def test_no_scale_leaves_an_example_too_long(norms: list[float], seed: int) -> None:
    """Whatever norms were believed: what is rounded is checked, shrunk, and left out at last."""
    grid = StepGrid.of(0.7, 1.0, 10)
    each = torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (len(norms), 30))).float()
    each *= 10.0 ** torch.linspace(-6, 12, len(norms)).unsqueeze(1)
    kept: list[Tensor] = []

    def squares(scales: Tensor) -> Tensor:
        kept.append((each * scales.unsqueeze(1)).round())
        return squared_lengths(kept[-1]) * grid.finer**2

    believed = torch.tensor(norms, dtype=torch.float32)
    fit(first_scales(believed, ~torch.isfinite(believed), grid), squares, grid.longest)
    assert ((exact(kept[-1]) ** 2).sum(1) <= 4**10).all()


@pytest.mark.parametrize("broken", [True, False])
def test_a_broken_example_has_scale_nothing(broken: bool) -> None:
    grid = StepGrid.of(0.5, 1.0, 10)
    scales = first_scales(torch.tensor([0.1, 10.0]), torch.tensor([broken, broken]), grid)
    assert scales.tolist() == [0.0, 0.0] if broken else scales[0] == 2048 and 102 < scales[1] < 102.4
