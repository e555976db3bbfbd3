"""The release of a round as a file that a run folder keeps, for anybody to check.

The file is safetensors. Each array holds its whole numbers packed (see `fedrec.privacy.grid`) into 64-bit words; the
metadata `release` is JSON: `round`, `bits` and `clip` of the grid, and for each array its `shape` and `largest`, the
largest of the released numbers without its sign, from which the width of a packed number follows. All of that comes
from noised numbers and public settings. How many devices took part is not in it, and nothing in it was made from that.
"""

import json
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedrec.errors import FedrecError
from fedrec.messages import Arrays
from fedrec.privacy.grid import Grid, Whole, pack_integers, unpack_integers
from fedrec.privacy.release import Release

METADATA = "release"


@dataclass(frozen=True, slots=True)
class KeptRelease:
    """What one round released: named arrays of whole numbers of steps of `grid`, noise included."""

    round: int
    grid: Grid
    arrays: dict[str, Whole]

    def values(self) -> Arrays:
        """Return what the numbers are worth: those times the grid's step, in single precision."""
        return {name: self.grid.values(array).astype(np.float32) for name, array in self.arrays.items()}


def encode_release(round_number: int, release: Release) -> bytes:
    """Return a file that holds a round's noised sum: the same bytes for the same numbers."""
    words, said = dict[str, Any](), dict[str, Any]()
    for name, array in release.arrays.items():
        largest = int(np.abs(array).max(initial=0))
        words[name] = pack_integers(np.asarray(array), largest)
        said[name] = {"shape": list(array.shape), "largest": largest}
    about = {"round": round_number, "bits": release.grid.bits, "clip": release.grid.clip, "arrays": said}
    return save(words, {METADATA: json.dumps(about, allow_nan=False)})


def decode_release(path: Path) -> KeptRelease:
    """Return the release of a file; one that was not written whole by `encode_release` is `FedrecError`."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()[METADATA])
            arrays = dict[str, Whole]()
            for name, said in about["arrays"].items():
                shape = tuple(map(operator.index, said["shape"]))
                largest = operator.index(said["largest"])
                arrays[name] = unpack_integers(file.get_tensor(name), math.prod(shape), largest).reshape(shape)
            return KeptRelease(
                operator.index(about["round"]), Grid(operator.index(about["bits"]), about["clip"]), arrays
            )
    except (SafetensorError, FedrecError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise FedrecError(f"{path} is not the release of a round: {error}") from error


def read_releases(paths: list[Path]) -> Iterator[KeptRelease]:
    """Yield the releases of some files, each read when its turn comes."""
    return (decode_release(path) for path in paths)
