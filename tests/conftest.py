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

ROOT = Path(__file__).parents[1]
settings.load_profile("same")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Draw the same in every run of a test, fixtures of its module included."""
    # By file and name, without the folders: a test that moves draws what it drew.
    key = item.nodeid.rpartition("/")[2]
    with drawn_for(key, system_noise="system_noise" in item.keywords):
        return (yield)


def shared_root() -> Path:
    return Path(os.environ.get("FEDREC_SHARED", ROOT.parent / "shared")).resolve()


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """`shared(name)` is shared/data/name; the test is skipped by that name where it is absent."""

    def find(name: str) -> Path:
        path = shared_root() / "data" / name
        if not path.exists():
            pytest.skip(f"needs shared data: {name}")
        return path

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
