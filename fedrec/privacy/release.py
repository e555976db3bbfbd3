"""What leaves a mechanism: whole numbers on a public grid, bounded by the one function that makes them.

`bounded` clips what devices contribute, puts it on the grid and checks its length there; nothing else makes a
`Release`, but sums of releases, noise on one, and the bytes of one that arrived. Devices without torch use this file
too.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.messages import Arrays, Message, ModelUpdate, RejectedReplyError, SparseArray, UpdateSum
from fedrec.privacy.clipping import NormClipper, group_of
from fedrec.privacy.contributions import CohortUpdates, OneUpdate
from fedrec.privacy.grid import Floats, Grid, Whole, fitted, pack_integers, packed_words, rounded, unpack_integers

GRID = "grid"  # of a reply's header


class IntegerNoise(Protocol):
    """Draws of the discrete Gaussian."""

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> NDArray[np.int32]:
        """Return independent whole numbers k of P(k) proportional to exp(-k^2 / (2 variance))."""
        ...


class GridRule(Protocol):
    """What a mechanism says of the numbers that leave."""

    def grid(self, shapes: dict[str, tuple[int, ...]]) -> Grid | None:
        """Return the grid of releases of these shapes; None where they are floating point."""
        ...

    def reach(self, count: int, grid: Grid) -> int:
        """Return the largest whole number that a release of `count` devices holds."""
        ...


@dataclass(frozen=True, slots=True)
class Release:
    """Named arrays of whole numbers on `grid`, summed over `count` devices. Made in this file alone."""

    arrays: dict[str, Whole]
    count: int
    grid: Grid

    def __post_init__(self) -> None:
        """Refuse anything but whole numbers: noise or a contribution in floating point would prove who took part."""
        for name, array in cast("Mapping[str, Any]", self.arrays).items():
            kind = (array.values if isinstance(array, SparseArray) else array).dtype
            if kind.kind != "i":
                raise FedrecError(f"{name} of a release holds {kind} numbers: whole ones alone may leave")

    @classmethod
    def nothing(cls, shapes: Mapping[str, tuple[int, ...]], grid: Grid, count: int = 0) -> "Release":
        """Return zeros, which is what nobody sends."""
        return cls({name: np.zeros(shape, np.int64) for name, shape in shapes.items()}, count, grid)

    def values(self) -> Arrays:
        """Return what the numbers are worth, in single precision."""
        return {name: self.grid.values(np.asarray(a)).astype(np.float32) for name, a in self.arrays.items()}

    def flat(self) -> Whole:
        """Return the numbers as one vector, the arrays in order of their names."""
        return np.concatenate([np.asarray(self.arrays[name], np.int64).reshape(-1) for name in sorted(self.arrays)])

    def norm(self) -> float:
        """Return the L2 norm of what all arrays together are worth."""
        return self.grid.step * math.sqrt(sum(float(np.square(_wide(a)).sum()) for a in self.arrays.values()))

    def finite(self) -> bool:
        """Say that every value is a number: all of them are whole."""
        return True

    def beside(self, other: "Release", name: str, length: int) -> "Release":
        """Return the release with an array of another beside its own, its numbers between -length and length."""
        return replace(self, arrays={**self.arrays, name: np.clip(other.arrays[name], -length, length)})

    def joined(self, other: "Release") -> "Release":
        """Return the release with the arrays of another on the same grid after its own."""
        return replace(self, arrays={**self.arrays, **other.arrays})

    def only(self, name: str) -> "Release":
        """Return one array of the release; none where it has no such array."""
        return replace(self, arrays={key: array for key, array in self.arrays.items() if key == name})

    def without(self, name: str) -> "Release":
        """Return the release without one array."""
        return replace(self, arrays={key: array for key, array in self.arrays.items() if key != name})

    def correlated(self, weights: Sequence[int], past: Mapping[str, Sequence[Whole]], bits: int) -> "Release":
        """Return `2^bits` times the release plus earlier sums times `weights`, the newest first: on a finer grid."""
        found = dict[str, Whole]()
        for name, array in self.arrays.items():
            found[name] = np.asarray(array, np.int64) << bits
            for weight, earlier in zip(weights, past[name], strict=True):
                found[name] += weight * earlier
        return Release(found, self.count, Grid(self.grid.bits + bits, self.grid.clip))

    def noised(self, variances: Mapping[str, int] | int, random: IntegerNoise) -> "Release":
        """Return the release with noise of these variances, in steps squared, on every number: for all or by name."""
        found = dict[str, Whole]()
        for name, array in self.arrays.items():
            variance = variances if isinstance(variances, int) else variances[name]
            found[name] = np.asarray(array) + random.discrete_gaussian(array.shape, variance)
        return replace(self, arrays=found)


Released = Release | ModelUpdate


def worth(released: Released) -> Arrays:
    """Return what was released as numbers in single precision."""
    return released.values() if isinstance(released, Release) else released.arrays


def bounded(changes: CohortUpdates, rule: NormClipper | None, grid: Grid, bit: str | None = None) -> Release:
    """Return the sum of what devices contribute, each clipped by the rule and on the grid: whole, and never longer.

    A change that is not finite becomes zero. Without a rule nothing is clipped: the algorithm bounds what one unit can
    change. With `bit`, an array of that name [1] sums what each device says of itself: half the clip's steps where
    nothing was clipped, minus as many elsewhere.
    """
    squares, scales = changes.squared_norms(), dict[str, Floats]()
    if rule is None:
        finite = np.logical_and.reduce([np.isfinite(square) for square in squares.values()])
        scale = np.where(finite, grid.length / grid.clip, 0.0)
        return Release(changes.whole_sum(dict.fromkeys(squares, scale)), changes.count, grid)
    factors = _factors(squares, rule, changes.count)
    for group, length in rule.lengths(grid).items():
        names = [name for name in squares if group_of(name, rule.grouping) == group]
        # What is clipped is aimed a step short, or rounding would take it back to beyond the bound.
        scale = grid.length / grid.clip * np.where(factors[group] < 1, factors[group] * (1 - 1 / grid.length), 1.0)
        found = fitted(scale, length, _squares_of(changes, names)) if names else scale
        scales |= {name: found for name in names}
    arrays = changes.whole_sum(scales)
    if bit is not None:
        within = np.logical_and.reduce([factor == 1 for factor in factors.values()])
        arrays[bit] = np.array([(2 * int(within.sum()) - changes.count) * (grid.length // 2)])
    return Release(arrays, changes.count, grid)


def _squares_of(changes: CohortUpdates, names: list[str]) -> Callable[[Floats], Floats]:
    """Return what gives the squared lengths [C] over some arrays together, for scales [C]."""
    return lambda scales: reduce(np.add, changes.whole_squares(dict.fromkeys(names, scales)).values())


def _factors(squares: Mapping[str, Floats], rule: NormClipper, count: int) -> dict[str, Floats]:
    """Return for each group of arrays by how much each device's [C] are shortened."""
    sums = dict.fromkeys(rule.bounds, np.zeros(count))
    for name, square in squares.items():
        group = group_of(name, rule.grouping)
        sums[group] = sums[group] + square
    return rule.factors(sums)


def bounded_again(total: Release, rule: NormClipper) -> Release:
    """Return what counts of a sum over `count` devices, whoever sent it: within `count` times the bounds.

    Above 2^53 a squared length is right to 16 digits; that of one device, and of thousands, is exact.
    """
    scales, arrays = dict[str, float](), {name: _wide(array) for name, array in total.arrays.items()}
    for group, length in rule.lengths(total.grid).items():
        names = [name for name in arrays if group_of(name, rule.grouping) == group]
        long = OneUpdate(ModelUpdate({name: cast(Any, arrays[name]) for name in names}, 1))
        found = fitted(np.ones(1), total.count * length, _squares_of(long, names)) if names else np.ones(1)
        scales |= dict.fromkeys(names, float(found[0]))
    if all(scale == 1 for scale in scales.values()):
        return total
    return replace(total, arrays={n: rounded(arrays[n], scale).astype(np.int64) for n, scale in scales.items()})


def _wide(array: Whole) -> Floats:
    return np.asarray(array, np.float64)


class ReleasedSum:
    """Releases added one by one as whole numbers, in any order the same; updates in floating point as `UpdateSum`."""

    def __init__(self) -> None:
        self._floats, self._whole = UpdateSum(), None

    _whole: Release | None

    def add(self, part: Released) -> None:
        """Add a release, or an update, of the same names, shapes and grid as those before."""
        if isinstance(part, ModelUpdate):
            return self._floats.add(part)
        if self._whole is None:
            self._whole = Release.nothing({name: array.shape for name, array in part.arrays.items()}, part.grid)
        if part.grid != self._whole.grid or part.arrays.keys() != self._whole.arrays.keys():
            raise FedrecError("releases on two grids, or of different arrays, have no sum")
        for name, array in cast("Iterable[tuple[str, Any]]", part.arrays.items()):
            sums = self._whole.arrays[name]
            array.add_to(sums) if isinstance(array, SparseArray) else np.add(sums, array, out=sums)
        self._whole = replace(self._whole, count=self._whole.count + part.count)
        return None

    def total(self) -> Released:
        """Return the sum of all parts."""
        return self._floats.update() if self._whole is None else self._whole


def cut_to(total: Released, clip: Callable[[ModelUpdate, float], ModelUpdate]) -> Released:
    """Return a sum cut as `clip` cuts what its numbers are worth: each that it changes becomes the whole one below.

    `clip` is told the step of the grid to which each device rounded; 0: to none.
    """
    if isinstance(total, ModelUpdate):
        return clip(total, 0.0)
    before: Any = {name: total.grid.values(np.asarray(array)) for name, array in total.arrays.items()}
    after = clip(ModelUpdate(before, total.count), total.grid.step).arrays
    kept = dict(total.arrays)
    for name, array in after.items():
        if array is not before[name]:
            below = np.trunc(array / total.grid.step).astype(np.int64)
            kept[name] = np.where(array == before[name], kept[name], below)
    return replace(total, arrays=kept)


def on_a_grid(total: Released) -> Release | None:
    """Return a sum that is on a grid, None for one in floating point."""
    return total if isinstance(total, Release) else None


def as_release(total: Released | None) -> Release:
    """Return a sum that is on the grid; anything else was not made by a mechanism that releases whole numbers."""
    if not isinstance(total, Release):
        raise FedrecError("what is released under this mechanism is whole numbers on its grid")
    return total


def total_of(parts: Iterable[Released]) -> Released:
    """Return the sum of releases or of updates."""
    summed = ReleasedSum()
    for part in parts:
        summed.add(part)
    return summed.total()


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """How the release of some devices travels: both ends know its shapes, its grid and its largest number."""

    shapes: Mapping[str, tuple[int, ...]]
    grid: Grid
    reach: Callable[[int], int]

    def pack(self, release: Release) -> Message:
        """Return the header and the arrays of a reply that holds the release, its numbers packed."""
        largest = self.reach(release.count)
        words = {name: pack_integers(np.asarray(a), largest) for name, a in release.arrays.items()}
        return Message({"count": release.count, GRID: self.header()}, cast(dict[str, NDArray[Any]], words))

    def unpack(self, reply: Message) -> Release:
        """Return the release that a reply holds; another grid, other arrays or numbers are `RejectedReplyError`."""
        if reply.header.get(GRID) != self.header():
            raise RejectedReplyError(f"{GRID} is not that of the mechanism")
        if reply.arrays.keys() != self.shapes.keys():
            raise RejectedReplyError("array names are not those of the model")
        count, found = reply.header["count"], dict[str, Whole]()
        for name, shape in self.shapes.items():
            try:
                found[name] = unpack_integers(reply.arrays[name], math.prod(shape), self.reach(count)).reshape(shape)
            except FedrecError as error:
                raise RejectedReplyError(f"{name} is not what was asked for: {error}") from error
        return Release(found, count, self.grid)

    def of_sum(self, numbers: Whole, count: int) -> Release:
        """Return the release that is the sum over `count` devices, from its `flat` numbers.

        `RejectedReplyError` where one lies beyond `reach`.
        """
        if int(np.abs(numbers).max(initial=0)) > self.reach(count):
            raise RejectedReplyError(f"the sum holds numbers that {count} honest devices can't add up to")
        found, start = dict[str, Whole](), 0
        for name in sorted(self.shapes):
            size = math.prod(self.shapes[name])
            found[name] = numbers[start : start + size].reshape(self.shapes[name])
            start += size
        return Release({name: found[name] for name in self.shapes}, count, self.grid)

    def most_bytes(self, count: int) -> int:
        """Return how many bytes the arrays of a reply for so many devices hold."""
        return sum(8 * packed_words(math.prod(shape), self.reach(count)) for shape in self.shapes.values())

    def header(self) -> dict[str, Any]:
        """Return what a reply says of its grid."""
        return {"bits": self.grid.bits, "clip": self.grid.clip}


def written(released: Released, sender: GridRule) -> Message:
    """Return what a reply says and holds of a release, packed; of an update its arrays.

    Where the mechanism has a grid nothing else than a release is sent: anything else is `FedrecError`.
    """
    shapes = {name: array.shape for name, array in released.arrays.items()}
    if isinstance(released, Release):
        grid = released.grid
        return ReplyForm(shapes, grid, lambda count: sender.reach(count, grid)).pack(released)
    if sender.grid(shapes) is not None:
        raise FedrecError("only a release on the mechanism's grid may leave")
    return Message({"count": released.count}, cast(dict[str, NDArray[Any]], released.arrays))
