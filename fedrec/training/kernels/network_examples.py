"""Examples of DP-SGD in the kernel of networks: their gradients, how long they are, and what they are as whole numbers.

Vectors and biases lie on the grid of vectors, the parts of layers' weights on that of products (`whole_parts`). Nothing
here mixes examples but sums of whole numbers.

Shapes: those of `networks`; S parts, B examples of K places.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrec.training.kernels.compiled import F, compiled
from fedrec.training.kernels.dot_product import Floats, Rows
from fedrec.training.kernels.networks import (
    Device,
    Network,
    Room,
    find_own_slopes,
    inputs_of,
    layer_of,
    slopes_of,
    weights_of,
)
from fedrec.training.kernels.private_dot_product import Whole, whole_number
from fedrec.training.kernels.whole_parts import (
    PRODUCT,
    USER,
    Bounds,
    Fits,
    Part,
    PartRoom,
    add_part,
    columns_of,
    measure_part,
    part_of,
    round_part,
)


class Sums(NamedTuple):
    """What the steps of the device that trains have added up: of t [p], u [m], v [n, p], w [n, m] and layers [D]."""

    taste: Whole
    user: Whole
    product: Whole
    item: Whole
    dense: Whole


class Examples(NamedTuple):
    """Room for B examples: dL/dt [B, p], dL/du [B, m], slopes of biases [B E]; they and dL/dv, dL/dw as whole numbers.

    `counts` [B] says which examples are finite and fit.
    """

    taste: Floats
    user: Floats
    bias: Floats
    whole_taste: Rows
    whole_user: Rows
    whole_bias: Rows
    whole_product: Rows
    whole_item: Rows
    norms: Floats
    fits: Fits
    counts: NDArray[np.bool_]


class Rooms(NamedTuple):
    """Room for some examples, and the parts [S, 8] of the layers, one `Part` a line."""

    places: Room
    examples: Examples
    parts: NDArray[np.int64]
    part_room: PartRoom


def example_room(sent: Network, examples: int, k: int) -> Examples:
    """Return room for examples of k places."""
    p, m, e = sent.product.shape[1], sent.item.shape[1], int(sent.layers[:, 2].sum())
    taste, user, bias = (examples, p), (examples, m), (examples * e,)
    floats = [np.empty(shape, np.float32) for shape in (taste, user, bias, examples, examples)]
    rounded = [np.empty(shape, np.int32) for shape in (taste, user, bias, (examples * k, p), (examples * k, m))]
    fits = Fits(floats[4], np.empty(examples, np.int64), np.empty(examples, np.bool_))
    made: Any = (*floats[:3], *rounded, floats[3], fits, np.empty(examples, np.bool_))
    return Examples(*made)


@compiled
def terms_of(sent: Network, own: Device, rooms: Rooms, part: Part, n: int) -> tuple[Floats, Floats]:
    """Return the slopes and inputs of a part at n places [n, ...]; of u, slopes by example [B, ...], and u [1, m]."""
    layer, there, k = layer_of(sent.layers, part.layer), rooms.places, rooms.part_room.pairs.shape[2]
    if part.source == USER:
        return columns_of(rooms.examples.bias, layer.back, n // k, part.outputs), own.user.reshape(1, part.inputs)
    if part.source == PRODUCT:
        return slopes_of(there, layer, n), there.product[:n]
    return slopes_of(there, layer, n), inputs_of(there, layer, n)


@compiled
def find_gradients(sent: Network, own: Device, rows: Rows, rooms: Rooms, count: int) -> None:
    """Write the gradients of so many examples, or what they are made of, and their squared norms."""
    there, (taste, user, bias, _, _, _, _, _, norms, _, _), n = rooms.places, rooms.examples, len(rows)
    k = n // count
    for depth in range(len(sent.layers)):
        layer = layer_of(sent.layers, depth)
        e, summed = slopes_of(there, layer, n), columns_of(bias, layer.back, count, layer.outputs)
        for b in range(count):
            norms[b] = norms[b] if depth > 0 else F(0)
            for o in range(layer.outputs):
                along = F(0)
                for q in range(b * k, b * k + k):
                    along += e[q, o]
                summed[b, o] = along
                norms[b] += along * along
    find_own_slopes(sent, own, rows, there, (taste[:count], user[:count]))
    for b in range(count):
        for i in range(taste.shape[1]):
            norms[b] += taste[b, i] * taste[b, i]
        for i in range(user.shape[1]):
            norms[b] += user[b, i] * user[b, i]
        norms[b] += coalesced(rows, (b * k, b * k + k), there.item_slopes, F(0))
        norms[b] += coalesced(rows, (b * k, b * k + k), there.product_slopes, F(0))
    for s in range(len(rooms.parts)):
        part = part_of(rooms.parts, s)
        measure_part(rooms.part_room, s, part, terms_of(sent, own, rooms, part, n), norms[:count])


@compiled
def coalesced(rows: Rows, some: tuple[int, int], slopes: Floats | Rows, zero: Any) -> Any:
    """Return the squared length of slopes [N, d] from one place to another; those of one row are one vector."""
    found = zero
    for q in range(some[0], some[1]):
        for i in range(slopes.shape[1]):
            found += slopes[q, i] * slopes[q, i]
        for r in range(some[0], q):
            if rows[r] == rows[q]:
                for i in range(slopes.shape[1]):
                    found += 2 * slopes[q, i] * slopes[r, i]
    return found


@compiled
def round_examples(sent: Network, own: Device, rows: Rows, rooms: Rooms, count: int, bounds: Bounds) -> None:
    """Round the examples that wait; write their squared lengths, in steps of products."""
    examples, there, n = rooms.examples, rooms.places, len(rows)
    (scales, squares, waits), k = examples.fits, len(rows) // count
    for b in range(count):
        if not waits[b]:
            continue
        squares[b] = 0
        for floats, whole in ((examples.taste, examples.whole_taste), (examples.user, examples.whole_user)):
            for i in range(whole.shape[1]):
                whole[b, i] = whole_number(floats[b, i] * scales[b], bounds.length)
                squares[b] += np.int64(whole[b, i]) * whole[b, i]
        for slopes, rounded in (
            (there.product_slopes, examples.whole_product),
            (there.item_slopes, examples.whole_item),
        ):
            for q in range(b * k, b * k + k):
                for i in range(rounded.shape[1]):
                    rounded[q, i] = whole_number(slopes[q, i] * scales[b], bounds.length)
            squares[b] += coalesced(rows, (b * k, b * k + k), rounded, np.int64(0))
    for depth in range(len(sent.layers)):
        layer = layer_of(sent.layers, depth)
        bias = columns_of(examples.bias, layer.back, count, layer.outputs)
        whole = columns_of(examples.whole_bias, layer.back, count, layer.outputs)
        for b in range(count):
            for o in range(layer.outputs if waits[b] else 0):
                whole[b, o] = whole_number(bias[b, o] * scales[b], bounds.length)
                squares[b] += np.int64(whole[b, o]) * whole[b, o]
    for b in range(count):
        squares[b] *= bounds.finer**2 if waits[b] else 1
    fits = Fits(scales[:count], squares[:count], waits[:count])
    for s in range(len(rooms.parts)):
        part = part_of(rooms.parts, s)
        round_part(rooms.part_room, s, part, terms_of(sent, own, rooms, part, n), fits, bounds)


@compiled
def add_rounded(sent: Network, own: tuple[Device, Sums], rows: Rows, rooms: Rooms, count: int, finer: int) -> None:
    """Add the examples that count, as they were rounded last."""
    (device, sums), examples, counts, k = own, rooms.examples, rooms.examples.counts, len(rows) // count
    for b in range(count):
        if not counts[b]:
            continue
        for i in range(len(sums.taste)):
            sums.taste[i] += examples.whole_taste[b, i]
        for i in range(len(sums.user)):
            sums.user[i] += examples.whole_user[b, i]
        for q in range(b * k, b * k + k):
            for i in range(len(sums.taste)):
                sums.product[rows[q], i] += examples.whole_product[q, i]
            for i in range(len(sums.user)):
                sums.item[rows[q], i] += examples.whole_item[q, i]
    for depth in range(len(sent.layers)):
        layer = layer_of(sent.layers, depth)
        (_, bias), whole = (
            weights_of(sums.dense, layer),
            columns_of(examples.whole_bias, layer.back, count, layer.outputs),
        )
        for b in range(count):
            for o in range(layer.outputs if counts[b] else 0):
                bias[o] += whole[b, o]
    for s in range(len(rooms.parts)):
        part = part_of(rooms.parts, s)
        terms = terms_of(sent, device, rooms, part, len(rows))
        add_part(rooms.part_room, part, terms, counts[:count], (sums.dense, finer))
