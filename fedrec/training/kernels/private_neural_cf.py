"""DP-SGD in the kernel of networks: clipped examples are whole numbers on public grids.

Every step adds whole numbers (`fedrec.privacy.step_grid`), each example's clipped gradient and the noise among them,
and parameters are made anew of the sums. An example's length is checked in whole numbers, whatever floats did before.

Shapes: those of `networks`; C devices, P passes, M rows that wait for noise.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.step_grid import AIM
from fedrec.training.kernels.compiled import F, compiled, copy_to
from fedrec.training.kernels.dot_product import Floats, find_losses
from fedrec.training.kernels.network_examples import Rooms, Sums, add_rounded, find_gradients, round_examples
from fedrec.training.kernels.networks import Device, Network, find_back, find_logits, prepare
from fedrec.training.kernels.neural_cf import Kept, take_device
from fedrec.training.kernels.places import Due, Places
from fedrec.training.kernels.private_dot_product import Whole
from fedrec.training.kernels.whole_parts import Bounds
from fedrec.training.whole_examples import PASSES


class Noise(NamedTuple):
    """Whole noise of t [C, P, p] and u [C, P, m] after each step, of rows that are due [M, p] and [M, m], and of layers
    after each step but the last [C, P - 1, D]."""

    taste: Whole
    user: Whole
    product: Whole
    item: Whole
    dense: Whole


@compiled
def descend_privately(
    sent: Network,
    places: Places,
    own: tuple[Device, Sums],
    kept: Kept,
    noise: tuple[Due, Noise],
    steps: tuple[Bounds, float, NDArray[np.float64], Rooms],
) -> None:
    """Train all devices of a tile; `steps` are bounds, what a step of vectors is worth and of layers [D], and room."""
    (device, sums), (_, drawn), (bounds, unit, units, rooms) = own, noise, steps
    passes = drawn.taste.shape[1]
    for c in range(len(kept.user)):
        first, many = places.first[c], places.first[c + 1] - places.first[c]
        take_device(sent, places, device, kept, c)
        sums.taste[:], sums.user[:], sums.dense[:], sums.product[:many], sums.item[:many] = 0, 0, 0, 0, 0
        for p in range(passes):
            move_rows(sent, places, own, noise, (c, p), unit)
            prepare(sent, device)
            at, last = places.passes[c * passes + p], places.passes[c * passes + p + 1]
            while at < last:
                end = min(at + len(rooms.examples.counts), last)
                kept.loss[c] += add_examples(sent, own, places, (at, end), rooms, bounds)
                at = end
            move(device.taste, sums.taste, kept.taste[c], drawn.taste[c, p], unit)
            move(device.user, sums.user, kept.user[c], drawn.user[c, p], unit)
            for i in range(len(units) if p + 1 < passes else 0):
                sums.dense[i] += drawn.dense[c, p, i]
                device.dense[i] = sent.dense[i] - sums.dense[i] * units[i]
        copy_to(kept.taste[c], device.taste)
        copy_to(kept.user[c], device.user)
        copy_to(kept.dense[c], sums.dense)
        for r in range(many):
            copy_to(kept.product[first + r], sums.product[r])
            copy_to(kept.item[first + r], sums.item[r])


@compiled
def move(now: Floats, sums: Whole, start: Floats, drawn: Whole, unit: float) -> None:
    """Add to sums the noise that was drawn, and let a vector be where it started minus what the sums are worth."""
    for i in range(len(now)):
        sums[i] += drawn[i]
        now[i] = start[i] - sums[i] * unit


@compiled
def move_rows(
    sent: Network,
    places: Places,
    own: tuple[Device, Sums],
    noise: tuple[Due, Noise],
    step: tuple[int, int],
    unit: float,
) -> None:
    """Move the rows that device c reads in pass p by the noise that they waited for, and their sums; step is (c, p)."""
    (device, sums), (due, drawn), (c, p) = own, noise, step
    at = c * drawn.taste.shape[1] + p
    for m in range(due.starts[at], due.starts[at + 1]):
        r = due.rows[m]
        x = places.item[places.first[c] + r]
        move(device.product[r], sums.product[r], sent.product[x], drawn.product[m], unit)
        move(device.item[r], sums.item[r], sent.item[x], drawn.item[m], unit)


@compiled
def add_examples(
    sent: Network, own: tuple[Device, Sums], places: Places, some: tuple[Any, Any], rooms: Rooms, bounds: Bounds
) -> float:
    """Add the gradients of examples from one to another, clipped in whole numbers; return the losses that count."""
    device, (at, end), there, found = own[0], some, rooms.places, 0.0
    rows, lost = places.rows[at:end].reshape(-1), np.empty(end - at, np.float32)
    z = np.empty((end - at, places.rows.shape[1]), np.float32)
    find_logits(sent, device, rows, there, z.reshape(-1))
    find_losses(sent.loss, z, places.values[at:end], lost)
    find_back(sent, device, there, z.reshape(-1))
    find_gradients(sent, device, rows, rooms, end - at)
    (scales, squares, waits), counts = rooms.examples.fits, rooms.examples.counts
    for b in range(end - at):
        norm = np.sqrt(rooms.examples.norms[b])
        waits[b], counts[b] = np.isfinite(norm), False
        found += lost[b] if waits[b] else 0.0
        scales[b] = F(min(AIM * bounds.length / norm if norm > 0 else np.inf, bounds.length / bounds.clip))
    longest, waiting = (bounds.length * bounds.finer) ** 2, True
    for _ in range(PASSES):  # shrunk as `whole_examples.fit` does; what is still too long then counts for nothing
        if not waiting:
            break
        round_examples(sent, device, rows, rooms, end - at, bounds)
        waiting = False
        for b in range(end - at):
            if waits[b]:
                counts[b] = squares[b] <= longest
                waits[b] = not counts[b]
                waiting |= waits[b]
                scales[b] = F(scales[b] * (longest / squares[b]) * AIM) if waits[b] else scales[b]
    add_rounded(sent, own, rows, rooms, end - at, bounds.finer)
    return found
