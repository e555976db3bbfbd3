"""What tests draw: the same in every run of a test, or afresh with `--hypothesis-profile=fresh`.

A test whose outcome hangs on a draw passes always or never. The noise that production takes from the operating system
comes from a generator keyed by the test's name here, but in tests marked `system_noise`, which are about that very
source and so must hold at whatever it draws.
"""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings

from fedrec.privacy import noise

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("fresh", deadline=None, print_blob=True)


def fresh() -> bool:
    """Whether this session was asked to draw afresh."""
    return not settings().derandomize


@contextmanager
def drawn_for(name: str, system_noise: bool = False) -> Iterator[None]:
    """Let what is drawn inside follow from a name: noise, and the global generators of Python, NumPy and torch."""
    if fresh():
        yield
        return
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    random.seed(key)
    np.random.seed(key % 2**32)
    torch.manual_seed(key)
    with pytest.MonkeyPatch.context() as patch:
        if not system_noise:
            patch.setattr(noise, "os", SimpleNamespace(urandom=Bytes(key)))
        yield


class Bytes:
    """Stands for `os.urandom`: seeded in this process, and the real one in its children, which must not repeat it."""

    def __init__(self, key: int) -> None:
        self._own, self._process = np.random.default_rng(key).bytes, os.getpid()

    def __call__(self, size: int) -> bytes:
        return self._own(size) if os.getpid() == self._process else os.urandom(size)
