"""The private arrays of devices, which never leave them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.data.interactions import release_pages
from fedrec.messages import Arrays

EMPTY = 0  # what a fresh file holds; rounds count from 1


class PrivateStore(Protocol):
    """Keeps each device's private arrays from round to round."""

    def load(self, user: int, before_round: int) -> Arrays:
        """Return what the device saved last before that round, or nothing."""
        ...

    def save(self, user: int, arrays: Arrays, round_number: int) -> None:
        """Keep the arrays as those of that round."""
        ...


class MmapPrivateStore:
    """Two slots a user in flat memory-mapped files: values [users, 2, width] and the round of each slot [users, 2].

    A round writes over the older slot only, so that what the last checkpoint stands on survives a kill at any moment:
    the repeated round finds it again, because it loads what was saved *before* that round.
    """

    def __init__(self, folder: Path, users: int, like: Mapping[str, NDArray[np.float32]]) -> None:
        """Open or create the files under `folder`; `like` gives names and shapes of one device's arrays."""
        self.folder = folder
        self._like = {name: array.shape for name, array in sorted(like.items())}
        self._width = sum(int(np.prod(shape)) for shape in self._like.values())
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._values = self._open(folder / "values.f32", np.float32, (users, 2, max(self._width, 1)))
        self._rounds = self._open(folder / "rounds.i32", np.int32, (users, 2))

    @staticmethod
    def _open(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with path.open("ab") as file:
            path.chmod(0o600)
            if file.tell() != size:
                file.truncate(0)
                file.truncate(size)  # sparse: a page exists once it is written
        return np.memmap(path, dtype=dtype, mode="r+", shape=shape)

    def load(self, user: int, before_round: int) -> Arrays:
        """Return what the device saved last before that round, or nothing."""
        rounds = self._rounds[user]
        usable = np.where((rounds != EMPTY) & (rounds < before_round), rounds, EMPTY)
        slot = int(usable.argmax())
        if usable[slot] == EMPTY:
            return {}
        arrays, start = dict[str, NDArray[np.float32]](), 0
        for name, shape in self._like.items():
            size = int(np.prod(shape))
            arrays[name] = np.array(self._values[user, slot, start : start + size]).reshape(shape)
            start += size
        return arrays

    def save(self, user: int, arrays: Arrays, round_number: int) -> None:
        """Keep the arrays as those of that round, over the slot that no checkpoint needs."""
        if not self._width:
            return
        rounds = self._rounds[user]
        same = np.flatnonzero(rounds >= round_number)
        slot = int(same[0]) if len(same) else int(rounds.argmin())
        self._rounds[user, slot] = EMPTY
        self._values[user, slot, : self._width] = np.concatenate([arrays[name].ravel() for name in self._like])
        self._rounds[user, slot] = round_number

    def load_many(self, users: NDArray[np.int64], before_round: int) -> tuple[Arrays, NDArray[np.bool_]]:
        """Return (arrays [C, ...], which of the devices have saved any [C]); what was never saved is zero."""
        rounds = self._rounds[users]
        usable = np.where((rounds != EMPTY) & (rounds < before_round), rounds, EMPTY)
        slot = usable.argmax(axis=1)
        flat = np.array(self._values[users, slot])
        found = usable[np.arange(len(users)), slot] != EMPTY
        flat[~found] = 0.0
        arrays, start = dict[str, NDArray[np.float32]](), 0
        for name, shape in self._like.items():
            size = int(np.prod(shape))
            arrays[name] = flat[:, start : start + size].reshape(len(users), *shape)
            start += size
        return arrays, found

    def save_many(self, users: NDArray[np.int64], arrays: Arrays, round_number: int) -> None:
        """Keep the arrays [C, ...] of many devices as those of that round; a device with a value not finite is left."""
        if not self._width or not len(users):
            return
        flat = np.concatenate([arrays[name].reshape(len(users), -1) for name in self._like], axis=1)
        good = np.isfinite(flat).all(axis=1)
        users, flat = users[good], flat[good]
        rounds = self._rounds[users]
        again = rounds >= round_number
        slot = np.where(again.any(axis=1), again.argmax(axis=1), rounds.argmin(axis=1))
        self._rounds[users, slot] = EMPTY
        self._values[users, slot, : self._width] = flat
        self._rounds[users, slot] = round_number

    def flush(self) -> None:
        """Bring the files to disk, where there is anything to keep."""
        if not self._width:
            return
        self._values.flush()
        self._rounds.flush()
        release_pages(self._values, self._rounds)
