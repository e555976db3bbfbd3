"""How a function of this room is compiled, by numba, and the small arithmetic that all of them share.

The first call compiles for some seconds; what comes of it is kept in a folder of the user's (`fedrec.paths.cache_dir`)
under a name that changes with any file of this room. Compiled functions hold no lock of Python's, so that threads train
at once, and keep no state. Sums may be taken in another order than they are written, always the same one on one kind of
processor: so two kinds may differ in the last bit of a float. What is no number stays one: nothing here assumes that
values are finite.
"""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fedrec.paths import cache_dir
from fedrec.rng import FIRST, SECOND, STEP

Function = TypeVar("Function", bound=Callable[..., Any])
FREEDOMS = {"reassoc", "contract", "arcp", "nsz"}  # of `fastmath`, all but those that assume finite numbers
F = np.float32
LARGEST_EXPONENT = F(87.0)  # exp(-87) is about the smallest normal number

_lock = threading.Lock()  # numba knows one folder for a whole process, which is set while a function is made


def kernel_cache() -> Path:
    """Return the folder of what these very files were compiled to."""
    room = Path(__file__).parent
    text = b"".join(path.read_bytes() for path in sorted(room.glob("*.py")))
    return cache_dir() / f"kernels-{numba.__version__}-{hashlib.sha256(text).hexdigest()[:16]}"


def compiled_before(function: object) -> bool:
    """Say whether a function was compiled already: in this process, or in an earlier one that left it in the cache."""
    made = cast(Any, function)
    return bool(made.signatures) or any(kernel_cache().rglob(f"*{made.py_func.__name__}*.nbc"))


def compiled(function: Function) -> Function:
    """Compile a function at its first call, or take it from the cache."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": FREEDOMS}
    config, njit = cast(Any, numba).config, cast(Any, numba).njit
    with _lock:
        before, config.CACHE_DIR = config.CACHE_DIR, str(kernel_cache())
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder can be written: then every process compiles for itself
            return njit(**options)(function)
        finally:
            config.CACHE_DIR = before


@compiled
def splitmix64(word: np.uint64) -> np.uint64:
    """Return a scrambled word, as `fedrec.rng.splitmix64` does."""
    word ^= word >> np.uint64(30)
    word *= FIRST
    word ^= word >> np.uint64(27)
    word *= SECOND
    return word ^ (word >> np.uint64(31))


@compiled
def word_at(first: np.uint64, index: np.uint64) -> np.uint64:
    """Return the word of an index, as `CounterRNG.keyed` does for the user whose words begin at `first`."""
    return splitmix64(first + index * STEP)


@compiled
def below(word: np.uint64, limit: int) -> np.int64:
    """Turn a word into a whole number from 0 to limit - 1, as `fedrec.rng.random_below` does."""
    return np.int64(((word >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))


@compiled
def copy_to(target: NDArray[Any], source: NDArray[Any]) -> None:
    """Copy a vector; an assignment of numba's, which may broadcast, takes seconds to compile."""
    for i in range(len(source)):
        target[i] = source[i]


@compiled
def exp_minus(size: np.float32) -> np.float32:
    """Return exp(-size) for a size >= 0, to 2e-7 of it: one power of 2 and a polynomial, which vectorise.

    The polynomial is Cephes' (Moshier, "Methods and programs for mathematical functions", 1989), and log(2) is taken
    in two parts.
    """
    least = -min(size, LARGEST_EXPONENT)
    power = np.int32(least * F(1.44269504) - F(0.5))
    rest = least - F(power) * F(0.693359375) + F(power) * F(2.12194440e-4)
    found = F(1.9875691500e-4) * rest + F(1.3981999507e-3)
    found = found * rest + F(8.3334519073e-3)
    found = found * rest + F(4.1665795894e-2)
    found = found * rest + F(1.6666665459e-1)
    found = found * rest + F(5.0000001201e-1)
    found = found * rest * rest + rest + F(1)
    return found * np.int32((power + np.int32(127)) << np.int32(23)).view(np.float32)
