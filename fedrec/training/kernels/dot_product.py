"""The kernel of models whose logit is a dot product, z = s u.v + b + o, of a user's vector u and an item's v and b.

With g = dL/dz of each place q of an example, which reads row r(q):

    dL/du = sum of s g[q] v[r(q)]      dL/dv[r] = sum of s g[q] u, and dL/db[r] = sum of g[q], over the places of r

Devices train one after the other, on copies of the rows that they touch; item vectors may be public, and then stay.
Shapes: C devices, R rows of all of them, n rows of one, N examples, 1+k places of each, V items, d dimensions.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrec.training.kernels.compiled import F, compiled, copy_to, exp_minus
from fedrec.training.kernels.places import Places

Floats, Doubles, Rows = NDArray[np.float32], NDArray[np.float64], NDArray[np.int32]
BCE, BPR, MSE, LABELLED = range(4)  # in the order of `forms.CRITERIA`


class Broadcast(NamedTuple):
    """What all devices start from: item vectors [V, d], whether they learn, biases [V], s, o, and which loss."""

    vectors: Floats
    learns: bool
    bias: Floats
    scale: np.float32
    offset: np.float32
    loss: int


class Device(NamedTuple):
    """The parameters of the device that trains: its vector [d], its rows [n, d] and [n], and how the vector moves."""

    user: Floats
    rows: Floats
    bias: Floats
    change: Floats


class Descent(NamedTuple):
    """Steps along the gradient of `batch` examples over `denominator`, or over their number where it is 0."""

    batch: int
    rate: float
    denominator: float


class Kept(NamedTuple):
    """What is kept: user vectors [C, d], from first to last; losses [C]; changes of rows [R, d] ([R, 0] of public ones)
    and [R]."""

    users: Floats
    loss: Doubles
    rows: NDArray[Any]
    bias: NDArray[Any]


def scratch(places: Places, dim: int) -> Device:
    """Return room for any device of a tile."""
    most = int(np.diff(places.first).max(initial=0))
    return Device(*(np.empty(shape, np.float32) for shape in (dim, (most, dim), most, dim)))


@compiled
def descend(sent: Broadcast, places: Places, own: Device, kept: Kept, steps: Descent) -> None:
    """Train all devices of a tile by plain gradient descent."""
    slopes, losses = np.empty(places.rows.shape, np.float32), np.empty(len(places.rows), np.float32)
    passes = (len(places.passes) - 1) // max(len(kept.users), 1)
    for c in range(len(kept.users)):
        take_rows(sent, places, own, c)
        copy_to(own.user, kept.users[c])
        for p in range(c * passes, (c + 1) * passes):
            at = places.passes[p]
            while at < places.passes[p + 1]:
                end = min(at + steps.batch, places.passes[p + 1])
                find_slopes(sent, own, (places.rows[at:end], places.values[at:end]), slopes[at:end], losses[at:end])
                share = F(-steps.rate / (steps.denominator if steps.denominator > 0 else end - at))
                take_step(sent, own, places.rows[at:end], slopes[at:end], share)
                for x in range(at, end):
                    kept.loss[c] += losses[x]
                at = end
        copy_to(kept.users[c], own.user)
        keep_changes(sent, places, own, kept, c)


@compiled
def take_rows(sent: Broadcast, places: Places, own: Device, c: int) -> None:
    """Copy what was sent of the rows of device c."""
    (_, rows, bias, _), first, vectors, biases = own, places.first[c], sent.vectors, sent.bias
    for r in range(places.first[c + 1] - first):
        x = places.item[first + r]
        bias[r] = biases[x]
        for i in range(rows.shape[1]):
            rows[r, i] = vectors[x, i]


@compiled
def keep_changes(sent: Broadcast, places: Places, own: Device, kept: Kept, c: int) -> None:
    """Keep how the rows of device c changed."""
    (_, rows, bias, _), first, vectors, biases = own, places.first[c], sent.vectors, sent.bias
    for r in range(places.first[c + 1] - first):
        x = places.item[first + r]
        kept.bias[first + r] = bias[r] - biases[x]
        for i in range(kept.rows.shape[1]):
            kept.rows[first + r, i] = rows[r, i] - vectors[x, i]


@compiled
def take_step(sent: Broadcast, own: Device, places: Rows, slopes: Floats, share: np.float32) -> None:
    """Move what a batch touched: each parameter by its gradient at the parameters before the step, times `share`."""
    user, rows, bias, change = own
    change[:] = 0
    for x in range(len(places)):
        for q in range(places.shape[1]):
            r, by = places[x, q], sent.scale * share * slopes[x, q]
            bias[r] += share * slopes[x, q]  # dL/db
            for i in range(len(user)):
                change[i] += by * rows[r, i]  # dL/du
    for x in range(len(places) if sent.learns else 0):
        for q in range(places.shape[1]):
            r, by = places[x, q], sent.scale * share * slopes[x, q]
            for i in range(len(user)):
                rows[r, i] += by * user[i]  # dL/dv
    for i in range(len(user)):
        user[i] += change[i]


@compiled
def find_slopes(sent: Broadcast, own: Device, batch: tuple[Rows, Floats], slopes: Floats, losses: Floats) -> None:
    """Write g [b, 1+k] and L [b] of a batch's rows [b, 1+k] and ratings [b]."""
    (places, values), (user, rows, bias, _) = batch, own
    for x in range(len(places)):
        for q in range(places.shape[1]):
            r, along = places[x, q], F(0)
            for i in range(len(user)):
                along += rows[r, i] * user[i]
            slopes[x, q] = sent.scale * along + bias[r] + sent.offset
    find_losses(sent.loss, slopes, values, losses)


@compiled
def find_losses(loss: int, slopes: Floats, values: Floats, losses: Floats) -> None:
    """Write L [b], and g over z [b, 1+k], for ratings [b]; g[0] is no number where L is not finite.

    BCE: L = sum of log(1 + e^z) - z[0], g = sigmoid(z), less 1 at the positive. BPR: the sum of log(1 + e^(z - z[0]))
    over the negatives, g = sigmoid(z - z[0]), and g[0] minus their sum. MSE: L = (z[0] - y)^2, g = 2 (z[0] - y).
    Labelled: L = log(1 + e^z[0]) - y z[0], g = sigmoid(z[0]) - y. Of the last two, g is 0 at the negatives.
    """
    if (loss == MSE) | (loss == LABELLED):
        for x in range(len(slopes)):
            z, small = slopes[x, 0], exp_minus(abs(slopes[x, 0]))
            away, likely = z - values[x], (F(1) if z >= 0 else small) / (F(1) + small)
            slopes[x, :] = 0
            if loss == MSE:
                slopes[x, 0], losses[x] = F(2) * away, away * away
            else:
                lost = max(z, F(0)) + F(np.log(F(1) + small)) - values[x] * z
                slopes[x, 0], losses[x] = likely - values[x] if np.isfinite(lost) else np.nan, lost
        return
    pairs = loss == BPR
    for x in range(len(slopes)):
        positive, pull, lost, product = slopes[x, 0], F(0), F(0), 1.0
        for q in range(1 if pairs else 0, slopes.shape[1]):
            z = slopes[x, q] - positive if pairs else slopes[x, q]
            small = exp_minus(abs(z))
            slopes[x, q] = (F(1) if z >= 0 else small) / (F(1) + small)
            pull += slopes[x, q]
            lost += F(0) if z <= 0 else z  # log(1 + e^z) = max(z, 0) + log(1 + e^-|z|)
            product *= F(1) + small  # at most 2 each, so that one logarithm serves many
            if product > 1e250:
                lost, product = lost + F(np.log(product)), 1.0
        losses[x] = lost + F(np.log(product)) - (F(0) if pairs else positive)
        slopes[x, 0] = -pull if pairs else slopes[x, 0] - F(1)
        if not np.isfinite(losses[x]):
            slopes[x, 0] = np.nan
