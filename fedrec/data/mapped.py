"""Arrays that lie in files: read where they are touched, and given back to the system when they are done with."""

import mmap
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray


def mapped(path: Path, dtype: str) -> NDArray[Any]:
    """Return a file of numbers as a read-only array; an empty file is an empty array."""
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def let_go(*arrays: NDArray[Any]) -> None:
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
