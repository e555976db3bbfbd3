"""A package of somebody's own, installed or not: a model, an algorithm, a mechanism, a data set, and what is none."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrec.cli.new import new_model
from fedrec.experiment import extensions, instantiate

NAME = "shop_mf"
PARTS = '''
"""Parts of every kind, and things that must not be built."""

import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.datasets.synthetic import Synthetic
from fedrec.models.base import Recommender
from fedrec.models.popularity import Popularity
from fedrec.privacy.mechanisms.user import UserLevel

imported = os.environ.setdefault("SHOP_IMPORTED", "yes")


@dataclass(frozen=True)
class Halved(FedAvg):
    """FedAvg under a name of its own."""

    name: ClassVar[str] = "halved"


@dataclass(frozen=True)
class Momentum(FedAvg):
    """FedAvg whose server keeps some of its last step (heavy ball)."""

    name: ClassVar[str] = "momentum"
    kept: float = 0.5

    def init(self, model, catalogue):
        first = FedAvg.init(self, model, catalogue)
        return {**first, **{f"step/{name}": np.zeros_like(array) for name, array in first.items()}}

    def step(self, state, total):
        after = dict(state)
        for name, change in total.mean().items():
            step = np.float32(self.kept) * state[f"step/{name}"] + change
            after |= {f"step/{name}": step, name: state[name] + step}
        return after


@dataclass(frozen=True)
class Promise(UserLevel):
    """User level under a name of its own."""

    name: ClassVar[str] = "promise"


@dataclass(frozen=True)
class Shop(Synthetic):
    """A data set with a default of its own."""

    users: int = 40
    items: int = 60
    interactions: int = 900


class Popular(Popularity):
    """The most popular items, with settings to be found."""

    name: ClassVar[str] = "popular"

    def __init__(self, catalogue, *, boost: float = 1.0, label: str = "x", rows: tuple[int, ...] = (1,)) -> None:
        super().__init__(catalogue)
        self.boost = boost


class Plain:
    """No part of an experiment."""

    def __init__(self, command: str = "") -> None:
        os.environ["SHOP_RAN"] = command


def run(command: str = "") -> None:
    """Nothing that a configuration may call."""
    os.environ["SHOP_RAN"] = command
'''
ENTRY_POINTS = f"""[fedrec.models]
{NAME} = {NAME}.conf.model:{NAME}.yaml
popular = {NAME}.parts:Popular
mf = {NAME}.model:ShopMf

[fedrec.algorithms]
halved = {NAME}.parts:Halved

[fedrec.datasets]
shop = {NAME}.parts:Shop

[fedrec.mechanisms]
promise = {NAME}.parts:Promise
"""


def write_package(into: Path) -> Path:
    """Write the package, as `fedrec new model` does and with more parts; return the folder to import it from."""
    root = new_model(NAME, into)[0].parent
    (root / NAME / "parts.py").write_text(PARTS)
    return root


def install(root: Path) -> None:
    """Leave beside the package what pip would."""
    about = root / f"{NAME}-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)


@contextmanager
def importable(root: Path) -> Iterator[Path]:
    """Let the package be imported inside the context, anew, with nothing allowed before; take all back afterwards."""
    before = set(instantiate._allowed)
    sys.path.insert(0, str(root))
    instantiate._allowed.clear()
    extensions.installed.cache_clear()
    try:
        yield root
    finally:
        sys.path.remove(str(root))
        instantiate._allowed.clear()
        instantiate._allowed.update(before)
        extensions.installed.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
            del sys.modules[name]


def imported() -> bool:
    """Say whether anything of the package was imported."""
    return any(name.partition(".")[0] == NAME for name in sys.modules)
