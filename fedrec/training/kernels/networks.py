"""A perceptron over vectors of a user and an item, and a product beside it (`closed_forms.NeuralCF`), place by place.

With vectors u, w of a user and an item that the layers read, t, v that are multiplied, and x[l] what goes into layer l
of which the last, L, is the output:

    x[0] = w      x[1] = relu(U u + W[0] x[0] + b[0])      x[l+1] = relu(W[l] x[l] + b[l])
    z = T (t v) + W[L] x[L] + b[L] + o

With g = dL/dz at each place, and e[l] the slopes of what layer l gives before its relu:

    e[L] = g      e[l-1] = W[l]' e[l] where x[l] > 0, else 0      dL/dw = W[0]' e[0]      dL/dv = g T t

Shapes: n rows of a device, N places, V items, p numbers that are multiplied, m that layers read, X inputs and E outputs
of all layers, D weights and biases of all layers, U and T first.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrec.training.kernels.compiled import F, compiled
from fedrec.training.kernels.dot_product import Floats, Rows
from fedrec.training.kernels.places import Places


class Layer(NamedTuple):
    """Where a layer lies among the numbers of all: `outputs` x `inputs` weights from `weights` on, biases behind them.

    Its inputs begin at column `into` of all inputs, the slopes of its outputs at column `back` of all slopes.
    """

    weights: int
    inputs: int
    outputs: int
    into: int
    back: int


class Network(NamedTuple):
    """What all devices start from: item vectors v [V, p] and w [V, m], layers [D], o, and which loss.

    `layers` [1+L, 5] holds a `Layer` a line.
    """

    product: Floats
    item: Floats
    dense: Floats
    layers: NDArray[np.int64]
    offset: np.float32
    loss: int


class Device(NamedTuple):
    """The parameters of the device that trains: t [p], u [m], rows v [n, p] and w [n, m], layers [D].

    `turned` [D] has each layer's weights turned over; `first` is U u + b[0].
    """

    taste: Floats
    user: Floats
    product: Floats
    item: Floats
    dense: Floats
    turned: Floats
    first: Floats


class Room(NamedTuple):
    """Room for N places: t v [N, p], x [N X] and e [N E] layer by layer, dL/dw [N, m], dL/dv [N, p]."""

    product: Floats
    x: Floats
    e: Floats
    item_slopes: Floats
    product_slopes: Floats


def scratch(sent: Network, places: Places) -> Device:
    """Return room for any device of a tile."""
    p, m, d = sent.product.shape[1], sent.item.shape[1], len(sent.dense)
    most = int(np.diff(places.first).max(initial=0))
    shapes = (p, m, (most, p), (most, m), d, d, int(sent.layers[0, 2]))
    return Device(*(np.empty(shape, np.float32) for shape in shapes))


def room(sent: Network, count: int) -> Room:
    """Return room for so many places."""
    last, p, m = Layer(*sent.layers[-1].tolist()), sent.product.shape[1], sent.item.shape[1]
    shapes = ((count, p), count * (last.into + last.inputs), count * (last.back + 1), (count, m), (count, p))
    return Room(*(np.empty(shape, np.float32) for shape in shapes))


@compiled
def layer_of(layers: NDArray[np.int64], depth: int) -> Layer:
    """Return where the layer at a depth lies, the output being the last, as numbers that no store can change."""
    return Layer(layers[depth, 0], layers[depth, 1], layers[depth, 2], layers[depth, 3], layers[depth, 4])


@compiled
def weights_of(dense: Floats, layer: Layer) -> tuple[Floats, Floats]:
    """Return the weights [outputs, inputs] and biases [outputs] of a layer, as they lie among all numbers."""
    end = layer.weights + layer.inputs * layer.outputs
    return dense[layer.weights : end].reshape(layer.outputs, layer.inputs), dense[end : end + layer.outputs]


@compiled
def beside(dense: Floats, m: int, p: int, outputs: int) -> tuple[Floats, Floats]:
    """Return U [outputs, m] and T [1, p], as they lie among all numbers."""
    return dense[: outputs * m].reshape(outputs, m), dense[outputs * m : outputs * m + p].reshape(1, p)


@compiled
def turned_of(turned: Floats, layer: Layer) -> Floats:
    """Return the weights of a layer turned over [inputs, outputs]."""
    return turned[layer.weights : layer.weights + layer.inputs * layer.outputs].reshape(layer.inputs, layer.outputs)


@compiled
def inputs_of(there: Room, layer: Layer, n: int) -> Floats:
    """Return what goes into a layer at n places [n, inputs]."""
    return there.x[n * layer.into : n * (layer.into + layer.inputs)].reshape(n, layer.inputs)


@compiled
def slopes_of(there: Room, layer: Layer, n: int) -> Floats:
    """Return the slopes of a layer's outputs at n places [n, outputs]."""
    return there.e[n * layer.back : n * (layer.back + layer.outputs)].reshape(n, layer.outputs)


@compiled
def prepare(sent: Network, own: Device) -> None:
    """Write what all places of a step share: U u + b[0], and the weights of all layers, turned over."""
    (own_part, _), m = beside(own.dense, len(own.user), len(own.taste), len(own.first)), len(own.user)
    _, bias = weights_of(own.dense, layer_of(sent.layers, 0))
    for o in range(len(own.first)):
        own.first[o] = bias[o]
        for i in range(m):
            own.first[o] += own_part[o, i] * own.user[i]
    for depth in range(len(sent.layers)):
        layer = layer_of(sent.layers, depth)
        (weights, _), turned = weights_of(own.dense, layer), turned_of(own.turned, layer)
        for o in range(layer.outputs):
            for i in range(layer.inputs):
                turned[i, o] = weights[o, i]


@compiled
def find_logits(sent: Network, own: Device, rows: Rows, there: Room, z: Floats) -> None:
    """Write t v, x and z [N] of the places of rows [N]."""
    n, last, (_, own_part) = (
        len(rows),
        layer_of(sent.layers, -1),
        beside(own.dense, len(own.user), len(own.taste), len(own.first)),
    )
    x, product = inputs_of(there, layer_of(sent.layers, 0), n), there.product
    for q in range(n):
        z[q] = sent.offset
        for i in range(len(own.user)):
            x[q, i] = own.item[rows[q], i]
        for i in range(len(own.taste)):
            product[q, i] = own.taste[i] * own.product[rows[q], i]
            z[q] += own_part[0, i] * product[q, i]
    for depth in range(len(sent.layers) - 1):
        layer, upper = layer_of(sent.layers, depth), layer_of(sent.layers, depth + 1)
        (weights, bias), x, above = weights_of(own.dense, layer), inputs_of(there, layer, n), inputs_of(there, upper, n)
        start = own.first if depth == 0 else bias
        for q in range(n):
            for o in range(layer.outputs):
                along = F(0)
                for i in range(layer.inputs):
                    along += weights[o, i] * x[q, i]
                above[q, o] = max(along + start[o], F(0))
    (weights, bias), x = weights_of(own.dense, last), inputs_of(there, last, n)
    for q in range(n):
        along = F(0)
        for i in range(last.inputs):
            along += weights[0, i] * x[q, i]
        z[q] += along + bias[0]


@compiled
def find_back(sent: Network, own: Device, there: Room, g: Floats) -> None:
    """Write e, dL/dw [N, m] and dL/dv [N, p] for slopes g [N] of the logits."""
    n, (_, own_part) = len(g), beside(own.dense, len(own.user), len(own.taste), len(own.first))
    e = slopes_of(there, layer_of(sent.layers, -1), n)
    for q in range(n):
        e[q, 0] = g[q]
        for i in range(len(own.taste)):
            there.product_slopes[q, i] = g[q] * own_part[0, i] * own.taste[i]
    for depth in range(len(sent.layers) - 1, -1, -1):
        layer = layer_of(sent.layers, depth)
        turned, x, e = turned_of(own.turned, layer), inputs_of(there, layer, n), slopes_of(there, layer, n)
        below = slopes_of(there, layer_of(sent.layers, depth - 1), n) if depth > 0 else there.item_slopes
        for q in range(n):
            for i in range(layer.inputs):
                along = F(0)
                for o in range(layer.outputs):
                    along += turned[i, o] * e[q, o]
                below[q, i] = along if (depth == 0) | (x[q, i] > 0) else F(0)


@compiled
def find_own_slopes(sent: Network, own: Device, rows: Rows, there: Room, found: tuple[Floats, Floats]) -> None:
    """Write dL/dt [B, p], sums of g T v, and dL/du [B, m], U' times sums of e[0], of B equal runs of places."""
    (taste, user), n = found, len(rows)
    k, (own_part, product_part) = n // len(user), beside(own.dense, len(own.user), len(own.taste), len(own.first))
    g, e = slopes_of(there, layer_of(sent.layers, -1), n), slopes_of(there, layer_of(sent.layers, 0), n)
    for b in range(len(user)):
        taste[b, :], user[b, :] = 0, 0
        for q in range(b * k, b * k + k):
            for i in range(len(own.taste)):
                taste[b, i] += g[q, 0] * product_part[0, i] * own.product[rows[q], i]
        for o in range(len(own.first)):
            slope = F(0)
            for q in range(b * k, b * k + k):
                slope += e[q, o]
            for i in range(len(own.user)):
                user[b, i] += slope * own_part[o, i]
