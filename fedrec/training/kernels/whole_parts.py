"""Examples' gradients of parts of layers' weights as whole numbers: what DP-SGD in the kernel of networks sums.

Such a gradient is a sum over places of slopes e times inputs x. Inputs are rounded to about 2^8 steps of their own
length and slopes to whole numbers: the sum is then whole, and its squared length is one over pairs of places,
(e e') (x x'), the gradient never laid out. Where that is less work it is laid out and rounded instead
(`fedrec.training.whole_examples`, whose arithmetic this is). What multiplies u, and what multiplies t v, are parts of
their own; u is at one place of every example, with the sum of the slopes.

Nothing here mixes examples but sums of whole numbers. Shapes: those of `networks`; S parts, B examples of K places.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.step_grid import INPUT_BITS
from fedrec.training.kernels.compiled import F, compiled
from fedrec.training.kernels.dot_product import Floats, Rows
from fedrec.training.kernels.neural_cf import add_products
from fedrec.training.kernels.private_dot_product import Whole, whole_number
from fedrec.training.whole_examples import LEAST_NORM

LAYER, USER, PRODUCT = range(3)  # what goes into a part: what goes into its layer, u, or t v
STEPS = F(2.0**INPUT_BITS)  # of the length of rounded inputs


class Part(NamedTuple):
    """A part of layer `layer`: `outputs` x `inputs` weights from `weights` on, and whose they are.

    Its room begins at columns `into` of all parts' inputs and `back` of all parts' slopes; or, where `laid` is not -1,
    at column `laid` of what is laid out.
    """

    layer: int
    weights: int
    inputs: int
    outputs: int
    into: int
    back: int
    laid: int
    source: int


class Bounds(NamedTuple):
    """What an example may be: `length` steps of the grid of vectors, which is `clip`, each `finer` of products.

    A slope of more than `largest` steps makes it too long, so that lengths are exact in 64 bits.
    """

    length: int
    clip: float
    finer: int
    largest: int


class Fits(NamedTuple):
    """By what each example is multiplied [B], its squared length in steps of products, whether it is to be rounded."""

    scales: Floats
    squares: NDArray[np.int64]
    waits: NDArray[np.bool_]


class PartRoom(NamedTuple):
    """Room for all parts of B examples: what is laid out, as floats and whole numbers.

    Of others whole inputs [B K X], their lengths [S, B K], products of pairs of them [S, B K, K], whole slopes [B K E].
    """

    laid: Floats
    whole: Rows
    inputs: Rows
    lengths: Floats
    pairs: Rows
    slopes: Rows


def part_room(parts: NDArray[np.int64], examples: int, k: int) -> PartRoom:
    """Return room for the parts of so many examples of k places."""
    x, e, count, places = int(parts[:, 2].sum()), int(parts[:, 3].sum()), len(parts), examples * k
    laid = examples * int((parts[:, 2] * parts[:, 3])[parts[:, 6] >= 0].sum())
    whole = (np.empty(shape, np.int32) for shape in ((count, places, k), places * e))
    inputs, lengths = np.empty(places * x, np.int32), np.empty((count, places), np.float32)
    return PartRoom(np.empty(laid, np.float32), np.empty(laid, np.int32), inputs, lengths, *whole)


@compiled
def part_of(parts: NDArray[np.int64], s: int) -> Part:
    """Return part s, as numbers that no store can change."""
    line = parts[s]
    return Part(line[0], line[1], line[2], line[3], line[4], line[5], line[6], line[7])


@compiled
def columns_of(numbers: Any, at: int, n: int, width: int) -> Any:
    """Return n lines of numbers [n, width] of the room that begins at a column, of n numbers each."""
    return numbers[n * at : n * (at + width)].reshape(n, width)


@compiled
def measure_part(room: PartRoom, s: int, part: Part, terms: tuple[Floats, Floats], norms: Floats) -> None:
    """Lay part s out, or round its inputs, and add its squared norms to those of the examples [B].

    `terms` are its slopes [B K, outputs], or [B, outputs], and inputs: as many lines, or one for all examples.
    """
    (e, x), examples = terms, len(norms)
    k = len(e) // examples
    if part.laid >= 0:
        laid = columns_of(room.laid, part.laid, examples, part.outputs * part.inputs)
        laid[:] = 0
        for b in range(examples):
            at = b * k if len(x) == len(e) else 0
            add_products(laid[b].reshape(part.outputs, part.inputs), e[b * k : b * k + k], x[at : at + k])
            for i in range(laid.shape[1]):
                norms[b] += laid[b, i] * laid[b, i]
        return
    lengths, pairs = room.lengths[s], room.pairs[s]
    round_inputs(x, k, columns_of(room.inputs, part.into, len(x), part.inputs), lengths, pairs)
    for b in range(examples):
        at = b * k if len(x) == len(e) else 0
        for q in range(k):
            for r in range(q + 1):
                along = F(0)
                for o in range(part.outputs):
                    along += e[b * k + q, o] * e[b * k + r, o]
                worth = lengths[at + q] * lengths[at + r] / (STEPS * STEPS) * F(pairs[at + q, r])
                norms[b] += along * worth * F(1 if r == q else 2)


@compiled
def round_inputs(x: Floats, k: int, whole: Rows, lengths: Floats, pairs: Rows) -> None:
    """Write inputs as whole vectors, how long they were, and their products with those before of the same example."""
    for q in range(len(x)):
        squared = F(0)
        for i in range(x.shape[1]):
            squared += x[q, i] * x[q, i]
        lengths[q] = np.sqrt(squared)
        scale = STEPS / lengths[q] if lengths[q] > F(LEAST_NORM) else F(0)
        for i in range(x.shape[1]):
            whole[q, i] = np.int32(np.rint(x[q, i] * scale))
        first = q - q % k
        for r in range(first, q + 1):
            along = np.int32(0)
            for i in range(x.shape[1]):
                along += np.int32(whole[q, i] * whole[r, i])
            pairs[q, r - first] = along


@compiled
def round_part(room: PartRoom, s: int, part: Part, terms: tuple[Floats, Floats], fits: Fits, bounds: Bounds) -> None:
    """Round part s of the examples that wait, by their scales; add its squared lengths, in steps of products."""
    (e, x), (scales, squares, waits) = terms, fits
    k = len(e) // len(scales)
    if part.laid >= 0:
        width = part.outputs * part.inputs
        laid, whole = (
            columns_of(room.laid, part.laid, len(scales), width),
            columns_of(room.whole, part.laid, len(scales), width),
        )
        for b in range(len(scales)):
            for i in range(width if waits[b] else 0):
                whole[b, i] = whole_number(laid[b, i] * scales[b], bounds.length)
                squares[b] += np.int64(whole[b, i]) * whole[b, i] * bounds.finer**2
        return
    slopes, lengths, pairs = columns_of(room.slopes, part.back, len(e), part.outputs), room.lengths[s], room.pairs[s]
    for b in range(len(scales)):
        at, unit = b * k if len(x) == len(e) else 0, scales[b] * (F(bounds.finer) / STEPS)
        for q in range(k if waits[b] else 0):
            own, here, most = lengths[at + q] * unit, b * k + q, 0
            for o in range(part.outputs):
                slopes[here, o] = whole_number(e[here, o] * own, bounds.largest)
                most = max(most, abs(slopes[here, o]))
            if most > bounds.largest:
                squares[b] += 4 * (bounds.length * bounds.finer) ** 2
                break
            for r in range(q + 1):
                along = 0
                for o in range(part.outputs):
                    along += np.int64(slopes[here, o]) * slopes[b * k + r, o]
                squares[b] += along * pairs[at + q, r] * (1 if r == q else 2)


@compiled
def add_part(
    room: PartRoom, part: Part, terms: tuple[Floats, Floats], counts: NDArray[np.bool_], sums: tuple[Whole, int]
) -> None:
    """Add a part of all examples that count [B], as they were rounded last, to the sums of all layers [D]."""
    (e, x), k, (dense, finer) = terms, len(terms[0]) // len(counts), sums
    own = dense[part.weights : part.weights + part.inputs * part.outputs]
    if part.laid >= 0:
        whole = columns_of(room.whole, part.laid, len(counts), len(own))
        for b in range(len(counts)):
            for i in range(len(own) if counts[b] else 0):
                own[i] += whole[b, i] * finer
        return
    slopes = columns_of(room.slopes, part.back, len(e), part.outputs)
    for b in range(len(counts)):
        if not counts[b]:
            slopes[b * k : b * k + k] = 0
    inputs = columns_of(room.inputs, part.into, len(x), part.inputs)
    if len(x) < len(e):  # of u, all examples' slopes are summed first
        for b in range(1, len(e)):
            for o in range(part.outputs):
                slopes[0, o] += slopes[b, o]
        add_products(own.reshape(part.outputs, part.inputs), slopes[:1], inputs)
        return
    add_products(own.reshape(part.outputs, part.inputs), slopes, inputs)
