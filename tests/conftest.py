"""What every test may rely on: shared data where there is some, a ledger and draws of its own, no way off the host."""

import os
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from fedrec.models import text_embeddings
from tests.support.chance import drawn_for

settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let whole commands come first, so that no worker is left alone with one of the longest files at the end."""
    items.sort(key=lambda item: "end_to_end" not in item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Draw the same in every run of a test, fixtures of its module included."""
    # By file and name, without the folders: a test that moves draws what it drew.
    key = item.nodeid.rpartition("/")[2]
    with drawn_for(key, system_noise="system_noise" in item.keywords):
        return (yield)


def shared_root() -> Path | None:
    """Return the folder of real data, FEDREC_SHARED; None where nobody named one."""
    named = os.environ.get("FEDREC_SHARED")
    return Path(named).resolve() if named else None


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """`shared(name)` is FEDREC_SHARED/data/name; the test is skipped by that name where it is absent."""

    def find(name: str) -> Path:
        root = shared_root()
        if root is None or not (root / "data" / name).exists():
            pytest.skip(f"needs shared data: {name} under FEDREC_SHARED")
        return root / "data" / name

    return find


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a ledger and a data folder of its own."""
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("FEDREC_DATA", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def no_language_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hashed words stand for what a language model says, but in tests that ask for it: it is an extra, and slow."""
    if "language_model" not in request.keywords:
        monkeypatch.setattr(text_embeddings, "encode", said_in_words)


def said_in_words(said: list[str], encoder: str) -> NDArray[np.float32]:
    return text_embeddings.hash_words(said)
