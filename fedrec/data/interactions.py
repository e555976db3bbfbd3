"""The one table: who interacted with what, when. Large ones lie in files that are read where they are touched."""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions sorted by user, then time; rows of equal time keep their order in the file.

    `user[n]` counts rows of `user_ids`, `item[n]` rows of the catalogue, `time[n]` is in the source's unit
    (0 where the source has none), `value[n]` is the rating (1 where the source has none).
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]
    value: NDArray[np.float32]
    user_ids: NDArray[np.str_]
    items: int

    def __post_init__(self) -> None:
        sizes = {len(self.user), len(self.item), len(self.time), len(self.value)}
        if len(sizes) != 1:
            raise FedrecError(f"columns of unequal length: {sorted(sizes)}")
        if len(self.user) and (self.user.min() < 0 or self.user.max() >= self.users):
            raise FedrecError(f"user rows must lie in 0..{self.users - 1}")
        if len(self.item) and (self.item.min() < 0 or self.item.max() >= self.items):
            raise FedrecError(f"item rows must lie in 0..{self.items - 1}")
        if np.any(np.diff(self.user) < 0):
            raise FedrecError("interactions must be sorted by user")

    def __len__(self) -> int:
        return len(self.user)

    @property
    def users(self) -> int:
        """How many users there are, those without any interaction included."""
        return len(self.user_ids)


@dataclass(frozen=True, slots=True)
class FlatInteractions:
    """Interactions that lie as devices hold them, without time or value: user u has `item[start[u]:start[u + 1]]`.

    Users have no names but their numbers. Nothing here is larger than what a device's own history takes.
    """

    start: NDArray[np.int64]
    item: NDArray[np.int32]
    items: int

    def __len__(self) -> int:
        return len(self.item)

    @property
    def users(self) -> int:
        """How many users there are."""
        return len(self.start) - 1

    @property
    def user_ids(self) -> NDArray[np.str_]:
        """The numbers of all users as text."""
        return np.arange(self.users).astype(str)


def open_mmap(path: Path, dtype: str) -> NDArray[Any]:
    """Return a file of numbers as a read-only array; an empty file is an empty array."""
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def release_pages(*arrays: NDArray[Any]) -> None:
    """Give the pages of mapped arrays back: what is read again comes from the file; other arrays stay as they are.

    Nothing that was written to a mapped file is lost by it: the system keeps it until it is on disk.
    """
    for array in arrays:
        file = file_of(array)
        if file is not None and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


def file_of(array: NDArray[Any]) -> mmap.mmap | None:
    """Return the mapping that an array is a part of, None where it is of the process' own memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = cast(Any, owner).base
    return owner if isinstance(owner, mmap.mmap) else None
