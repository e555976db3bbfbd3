"""The kernel of small networks over embeddings (`fedrec.training.kernels.networks`): plain gradient descent.

With g, e and x of that file, and sums over the places of a batch:

    dL/dW[l] = sum of e[l] x[l]'    dL/db[l] = sum of e[l]    dL/dU = (sum of e[0]) u'    dL/dT = sum of g (t v)'

Devices train one after the other, on copies of the rows that they touch and of the layers. Shapes: C devices, R rows of
all of them, and those of `networks`.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrec.training.kernels.compiled import F, compiled, copy_to
from fedrec.training.kernels.dot_product import Descent, Doubles, Floats, Rows, find_losses
from fedrec.training.kernels.networks import (
    Device,
    Network,
    Room,
    beside,
    find_back,
    find_logits,
    find_own_slopes,
    inputs_of,
    layer_of,
    prepare,
    slopes_of,
    weights_of,
)
from fedrec.training.kernels.places import Places


class Gradients(NamedTuple):
    """Room for the gradients of t [1, p], u [1, m] and all layers [D]."""

    taste: Floats
    user: Floats
    dense: Floats


class Kept(NamedTuple):
    """What is kept: t [C, p] and u [C, m], from first to last; losses [C]; changes of v [R, p], w [R, m] and [C, D]."""

    taste: Floats
    user: Floats
    loss: Doubles
    product: NDArray[Any]
    item: NDArray[Any]
    dense: NDArray[Any]


def gradients(sent: Network) -> Gradients:
    """Return room for gradients."""
    shapes = ((1, sent.product.shape[1]), (1, sent.item.shape[1]), len(sent.dense))
    return Gradients(*(np.empty(shape, np.float32) for shape in shapes))


@compiled
def descend(
    sent: Network, places: Places, own: Device, kept: Kept, steps: Descent, rooms: tuple[Room, Gradients]
) -> None:
    """Train all devices of a tile by plain gradient descent."""
    slopes, losses = np.empty(places.rows.shape, np.float32), np.empty(len(places.rows), np.float32)
    passes, (there, change) = (len(places.passes) - 1) // max(len(kept.user), 1), rooms
    for c in range(len(kept.user)):
        take_device(sent, places, own, kept, c)
        for p in range(c * passes, (c + 1) * passes):
            at = places.passes[p]
            while at < places.passes[p + 1]:
                end = min(at + steps.batch, places.passes[p + 1])
                rows, g = places.rows[at:end].reshape(-1), slopes[at:end].reshape(-1)
                prepare(sent, own)
                find_logits(sent, own, rows, there, g)
                find_losses(sent.loss, slopes[at:end], places.values[at:end], losses[at:end])
                share = F(-steps.rate / (steps.denominator if steps.denominator > 0 else end - at))
                for x in range(len(g)):
                    g[x] *= share
                find_back(sent, own, there, g)
                take_step(sent, own, rows, there, change)
                for x in range(at, end):
                    kept.loss[c] += losses[x]
                at = end
        copy_to(kept.taste[c], own.taste)
        copy_to(kept.user[c], own.user)
        keep_changes(sent, places, own, kept, c)


@compiled
def take_device(sent: Network, places: Places, own: Device, kept: Kept, c: int) -> None:
    """Copy what was sent of the rows of device c and of the layers, and its own vectors."""
    first, product, item = places.first[c], sent.product, sent.item
    for r in range(places.first[c + 1] - first):
        x = places.item[first + r]
        for i in range(product.shape[1]):
            own.product[r, i] = product[x, i]
        for i in range(item.shape[1]):
            own.item[r, i] = item[x, i]
    copy_to(own.taste, kept.taste[c])
    copy_to(own.user, kept.user[c])
    copy_to(own.dense, sent.dense)


@compiled
def keep_changes(sent: Network, places: Places, own: Device, kept: Kept, c: int) -> None:
    """Keep how the rows of device c and its layers changed."""
    first, product, item = places.first[c], sent.product, sent.item
    for r in range(places.first[c + 1] - first):
        x = places.item[first + r]
        for i in range(product.shape[1]):
            kept.product[first + r, i] = own.product[r, i] - product[x, i]
        for i in range(item.shape[1]):
            kept.item[first + r, i] = own.item[r, i] - item[x, i]
    for i in range(len(own.dense)):
        kept.dense[c, i] = own.dense[i] - sent.dense[i]


@compiled
def take_step(sent: Network, own: Device, rows: Rows, there: Room, change: Gradients) -> None:
    """Move what a batch touched by gradients that have the size of the step in them, all at where it began."""
    find_gradients(sent, own, len(rows), there, change.dense)
    find_own_slopes(sent, own, rows, there, (change.taste, change.user))
    for q in range(len(rows)):
        for i in range(len(own.user)):
            own.item[rows[q], i] += there.item_slopes[q, i]
        for i in range(len(own.taste)):
            own.product[rows[q], i] += there.product_slopes[q, i]
    for now, by in ((own.taste, change.taste[0]), (own.user, change.user[0]), (own.dense, change.dense)):
        for i in range(len(now)):
            now[i] += by[i]


@compiled
def find_gradients(sent: Network, own: Device, n: int, there: Room, dense: Floats) -> None:
    """Write the gradients of all layers [D], summed over n places."""
    own_part, product_part = beside(dense, len(own.user), len(own.taste), len(own.first))
    dense[:] = 0
    for depth in range(len(sent.layers)):
        layer = layer_of(sent.layers, depth)
        (weights, bias), x, e = weights_of(dense, layer), inputs_of(there, layer, n), slopes_of(there, layer, n)
        add_products(weights, e, x)
        for q in range(n):
            for o in range(layer.outputs):
                bias[o] += e[q, o]
    add_products(product_part, slopes_of(there, layer_of(sent.layers, -1), n), there.product[:n])
    _, summed = weights_of(dense, layer_of(sent.layers, 0))  # of b[0]: the sum of e[0]
    for o in range(len(summed)):
        for i in range(len(own.user)):
            own_part[o, i] = summed[o] * own.user[i]


@compiled
def add_products(sums: Any, e: Any, x: Any) -> None:
    """Add e' x to sums [outputs, inputs], for e [n, outputs] and x [n, inputs]."""
    n = len(e)
    for q in range(0, n - 3, 4):  # four places at a time: sums are then seldom read and written
        for o in range(e.shape[1]):
            a, b, c, d = e[q, o], e[q + 1, o], e[q + 2, o], e[q + 3, o]
            for i in range(x.shape[1]):
                sums[o, i] += a * x[q, i] + b * x[q + 1, i] + c * x[q + 2, i] + d * x[q + 3, i]
    for q in range(n - n % 4, n):
        for o in range(e.shape[1]):
            for i in range(x.shape[1]):
                sums[o, i] += e[q, o] * x[q, i]
