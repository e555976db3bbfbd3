"""DP-SGD in the kernel of dot products: clipped examples are whole numbers on a public grid.

Every step adds whole numbers (`fedrec.privacy.step_grid`), each example's clipped gradient and the noise among them,
and parameters are made anew of the sums. An example's gradient has the squared norm |dL/du|^2 + (s^2 |u|^2 + 1) times
the sum of G^2, where G adds up the slopes of one row's places. Its length is checked in whole numbers, whatever floats
did before.

Shapes: as in `dot_product`; P passes, M rows that wait for noise.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.step_grid import AIM
from fedrec.training.kernels.compiled import F, compiled, copy_to
from fedrec.training.kernels.dot_product import Broadcast, Device, Floats, Kept, Rows, find_slopes, take_rows
from fedrec.training.kernels.places import Due, Places
from fedrec.training.whole_examples import PASSES

Whole = NDArray[Any]  # of 32 bits, or of 64 where sums might not fit


class PrivateDescent(NamedTuple):
    """An example is at most `length` steps of the grid long, which is `clip`; a step moves a parameter by `unit`."""

    length: int
    clip: float
    unit: float


class Sums(NamedTuple):
    """What the steps of the device that trains have added up: of its vector [d], its rows [n, d] ([n, 0]) and [n]."""

    user: Whole
    rows: Whole
    bias: Whole


class Noise(NamedTuple):
    """Whole noise of user vectors after each step [C, P, d], and of the rows that are due, [M, d] ([M, 0]) and [M]."""

    users: Whole
    rows: Whole
    bias: Whole


class Example(NamedTuple):
    """Room for one example: whole numbers, a line a place and one of the user [2 + k, d + 1]; its dL/du [d]."""

    whole: Rows
    taste: Floats


@compiled
def descend_privately(
    sent: Broadcast,
    places: Places,
    own: tuple[Device, Sums],
    kept: Kept,
    noise: tuple[Due, Noise],
    steps: PrivateDescent,
) -> None:
    """Train all devices of a tile: of rows, sums of examples are kept, and of noise that later steps have read."""
    (device, sums), (due, drawn), (width, d) = own, noise, (places.rows.shape[1], kept.users.shape[1])
    slopes, losses = np.empty((len(places.rows), width), np.float32), np.empty(len(places.rows), np.float32)
    room, passes = Example(np.empty((1 + width, d + 1), np.int32), np.empty(d, np.float32)), drawn.users.shape[1]
    for c in range(len(kept.users)):
        first, many = places.first[c], places.first[c + 1] - places.first[c]
        take_rows(sent, places, device, c)
        copy_to(device.user, kept.users[c])
        sums.user[:], sums.rows[:many], sums.bias[:many] = 0, 0, 0
        for p in range(c * passes, (c + 1) * passes):
            at, end = places.passes[p], places.passes[p + 1]
            for m in range(due.starts[p], due.starts[p + 1]):
                x = places.item[first + due.rows[m]]
                move_row(sent, own, (due.rows[m], x), (drawn.rows[m], drawn.bias[m]), steps.unit)
            find_slopes(sent, device, (places.rows[at:end], places.values[at:end]), slopes[at:end], losses[at:end])
            batch = places.rows[at:end], slopes[at:end], losses[at:end]
            kept.loss[c] += add_examples(sent, own, batch, room, steps)
            for i in range(d):
                sums.user[i] += drawn.users[c, p - c * passes, i]
                device.user[i] = kept.users[c, i] - sums.user[i] * steps.unit
        copy_to(kept.users[c], device.user)
        for r in range(many):
            kept.bias[first + r] = sums.bias[r]
            copy_to(kept.rows[first + r], sums.rows[r])


@compiled
def move_row(
    sent: Broadcast, own: tuple[Device, Sums], place: tuple[int, Any], drawn: tuple[Whole, int], unit: float
) -> None:
    """Add to a row's sums the noise that it waited for, and let it be what was sent minus what the sums are worth."""
    (device, sums), (r, x), (vector, one) = own, place, drawn
    sums.bias[r] += one
    device.bias[r] = sent.bias[x] - sums.bias[r] * unit
    for i in range(sums.rows.shape[1]):
        sums.rows[r, i] += vector[i]
        device.rows[r, i] = sent.vectors[x, i] - sums.rows[r, i] * unit


@compiled
def add_examples(
    sent: Broadcast, own: tuple[Device, Sums], batch: tuple[Rows, Floats, Floats], room: Example, steps: PrivateDescent
) -> float:
    """Add each example's gradient, clipped in whole numbers; return the losses of those that count: are finite."""
    ((user, rows, _, _), sums), (places, slopes, losses), lost = own, batch, 0.0
    length, longest, reach = F(0), steps.length * steps.length, steps.length / steps.clip
    for i in range(len(user)):
        length += user[i] * user[i]
    length = sent.scale * sent.scale * length * F(sent.learns) + F(1)
    for x in range(len(places)):
        norm = np.sqrt(find_taste(sent.scale, (user, rows), places[x], slopes[x], room.taste, length))
        if not np.isfinite(norm):
            continue
        lost += losses[x]
        scale = F(min(AIM * steps.length / norm if norm > 0 else np.inf, reach))
        for _ in range(PASSES):  # shrunk as `whole_examples.fit` does; what is still too long then counts for nothing
            squared = round_example(
                (sent.scale, scale), (places[x], slopes[x]), user, room, sums.rows.shape[1], steps.length
            )
            if squared <= longest:
                add_rounded(sums, places[x], room.whole)
                break
            scale = F(scale * (longest / squared) * AIM)
    return lost


@compiled
def find_taste(
    own: np.float32, device: tuple[Floats, Floats], places: Rows, slopes: Floats, taste: Floats, length: np.float32
) -> np.float32:
    """Write dL/du of an example and return its squared norm; a row's own is `length` times the square of its slopes."""
    (user, rows), slope, mine = device, F(0), F(0)
    taste[:] = 0
    for q in range(len(places)):
        r, by = places[q], own * slopes[q]
        for i in range(len(user)):
            taste[i] += by * rows[r, i]
        slope += slopes[q] * slopes[q]
        for other in range(q):
            if places[other] == r:
                slope += F(2) * slopes[q] * slopes[other]
    for i in range(len(user)):
        mine += taste[i] * taste[i]
    return mine + slope * length


@compiled
def round_example(
    scales: tuple[np.float32, np.float32],
    example: tuple[Rows, Floats],
    user: Floats,
    room: Example,
    learned: int,
    length: int,
) -> int:
    """Write an example's scaled gradient as whole numbers; return its squared length, in whole numbers too.

    `scales` are s and the example's own; of a row's vector, `learned` numbers learn. Places of one row are one vector.
    """
    (own, scale), (places, slopes), (whole, taste), d, squared = scales, example, room, len(user), 0
    for i in range(d):
        whole[len(places), i] = whole_number(taste[i] * scale, length)
        squared += np.int64(whole[len(places), i]) * whole[len(places), i]
    for q in range(len(places)):
        by = own * slopes[q]
        for i in range(learned):
            whole[q, i] = whole_number(by * user[i] * scale, length)
            squared += np.int64(whole[q, i]) * whole[q, i]
        whole[q, d] = whole_number(slopes[q] * scale, length)
        squared += np.int64(whole[q, d]) * whole[q, d]
        for other in range(q):
            if places[other] == places[q]:
                for i in range(learned):
                    squared += 2 * np.int64(whole[q, i]) * whole[other, i]
                squared += 2 * np.int64(whole[q, d]) * whole[other, d]
    return squared


@compiled
def add_rounded(sums: Sums, places: Rows, whole: Rows) -> None:
    """Add an example as it was rounded last."""
    (user, rows, bias), d = sums, len(sums.user)
    for i in range(d):
        user[i] += whole[len(places), i]
    for q in range(len(places)):
        r = places[q]
        bias[r] += whole[q, d]
        for i in range(rows.shape[1]):
            rows[r, i] += whole[q, i]


@compiled
def whole_number(value: np.float32, length: int) -> np.int32:
    """Return the nearest whole number; of what is beyond 2 lengths, or no number, that: too long in any case."""
    there = np.rint(value)
    return np.int32(there if abs(there) <= F(2 * length) else F(2 * length))
