"""Whole numbers in the arithmetic of floating point: what both engines round examples by, and sums that are exact.

A sum of whole numbers is exact in single precision while every partial sum stays below 2^24, in double below 2^53, in
any order and on any number of threads. Where that is not certain beforehand, it is taken in parts or in double.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedrec.privacy.step_grid import AIM, INPUT_BITS, StepGrid

PASSES = 6  # of shrinking: what is still too long then counts for nothing
LEAST_NORM = 1e-30  # of inputs: shorter ones have no direction in single precision


def exact_below(like: Tensor, product: bool = False) -> float:
    """Return up to which size whole numbers of this type add up exactly; nothing where products may be rounded."""
    if like.dtype == torch.float64:
        return 2.0**53
    return 0.0 if product and torch.get_float32_matmul_precision() != "highest" else 2.0**24


def largest(whole: Tensor) -> float:
    """Return the largest absolute value; 0 of nothing."""
    if not whole.numel():
        return 0.0
    low, high = torch.aminmax(whole)
    return max(-float(low), float(high))


def sum_examples(whole: Tensor) -> Tensor:
    """Return the exact sum over the second dimension, in double precision."""
    if whole.shape[1] * largest(whole) < exact_below(whole):
        return whole.sum(1).double()
    return whole.sum(1, dtype=torch.float64)


def sum_products(slopes: Tensor, inputs: Tensor) -> Tensor:
    """Return the exact sum [c, o, i] of slopes [c, n, o] times inputs [c, n, i] in double, in parts of n where needed.

    By Cauchy and Schwarz the longest column of each bounds every partial sum.
    """
    if not slopes.numel():
        return torch.bmm(slopes.double().mT, inputs.double())
    most = math.sqrt(float(slopes.square().sum(1).amax()) * float(inputs.square().sum(1).amax()))
    if most * 1.01 < exact_below(slopes, product=True):  # more than single precision can be off
        return torch.bmm(slopes.mT, inputs).double()
    if slopes.shape[1] == 1:
        return torch.bmm(slopes.double().mT, inputs.double())
    half = slopes.shape[1] // 2
    return sum_products(slopes[:, :half], inputs[:, :half]) + sum_products(slopes[:, half:], inputs[:, half:])


def squared_lengths(whole: Tensor, dims: int = 1) -> Tensor:
    """Return the squared lengths over the last dimensions, in double precision; infinite where they are not exact.

    Squares are >= 0: no partial sum of a sum below the limit has reached it, and none that reached it came back.
    """
    found = whole.square().flatten(-dims).sum(-1)
    return torch.where(found < exact_below(found), found, torch.inf).double()


def gram(whole: Tensor) -> Tensor:
    """Return the exact products [..., n, n] of all pairs of n whole vectors [..., n, d], in double precision."""
    found = whole @ whole.mT
    # Of the products, those of vectors with themselves are the largest, and right or beyond the limit themselves.
    if not found.numel() or bool(found.amax() < exact_below(whole, product=True)):
        return found.double()
    return whole.double() @ whole.double().mT


def rounded_inputs(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs [..., i] as whole vectors about 2^8 long, and how long each was [..., 1]."""
    norms = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
    scales = torch.where(norms > LEAST_NORM, 2.0**INPUT_BITS / norms, 0.0)
    return (inputs * scales).round_(), norms


def lays_out(places: int, inputs: int, outputs: int) -> bool:
    """Say whether an example's gradient of a linear layer is laid out: less work than products over its places."""
    return places * (inputs + outputs) > 2 * inputs * outputs


def first_scales(norms: Tensor, broken: Tensor, grid: StepGrid) -> Tensor:
    """Return by what each example's gradient, of these norms, is multiplied on the grid of vectors; 0 where broken."""
    length = grid.vectors.length
    scales = torch.clamp(AIM * length / norms, max=length / grid.vectors.clip)
    return torch.where(broken, 0.0, scales)


def fit(scales: Tensor, squares: Callable[[Tensor], Tensor], longest: int) -> Tensor:
    """Return scales, shrunk until no example rounds to more than `longest`; 0 where that does not come about.

    `squares(scales)` rounds all examples and returns their squared lengths, exact in double precision or infinite.
    """
    for number in range(PASSES + 1):
        found = squares(scales)
        long = ~(found <= longest)
        if not bool(long.any()):
            break
        # By twice the excess and a little more, or rounding would often bring it back.
        shorter = torch.where(found < torch.inf, longest / found, 0.5) * AIM
        scales = torch.where(long, scales * shorter.to(scales) if number < PASSES - 1 else 0.0, scales)
    return scales
