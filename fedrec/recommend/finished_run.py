"""The model of a finished run, for people: the users and items of its folder, and how it ranks for one of them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.datasets.frame import Frame
from fedrec.errors import FedrecError, suggest
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import Settings, read
from fedrec.messages import Arrays
from fedrec.numpy_engine.experiment import has_light_model
from fedrec.recommend.model_ranker import NOBODY, model_ranker
from fedrec.recommend.numpy_ranker import RankerFactory
from fedrec.recommend.ranker import UserRanker
from fedrec.storage.private_arrays import MmapPrivateStore
from fedrec.storage.run_folder import RunFolder, read_catalogue


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with its model: nothing of it is changed, and nothing leaves this machine."""

    folder: RunFolder
    settings: Settings
    arrays: Arrays  # what devices receive
    round: int

    @classmethod
    def open(cls, path: Path) -> "FinishedRun":
        """Open a run folder; one that holds no model is an error."""
        folder = RunFolder(path)
        model = folder.path / "model.safetensors"
        if not folder.config.exists():
            raise FedrecError(f"{path} holds no run: give the folder that fedrec simulate printed at its end")
        if not model.exists():
            raise FedrecError(f"{path} holds no model yet: finish the run with fedrec simulate --resume {path}")
        with safe_open(model, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return cls(folder, read(folder.config), arrays, int((file.metadata() or {}).get("round", 0)))

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items that the model's rows stand for."""
        return read_catalogue(self.folder.path / "catalogue.parquet")

    @cached_property
    def dataset(self) -> Dataset:
        """The data set that the run's configuration names: it holds the users' own histories and items' features."""
        return load_dataset(self.settings.experiment)

    @cached_property
    def items(self) -> Catalogue:
        """The items with their features, as models are built with; rows that were handed over need not be here."""
        source = self.settings.experiment.dataset
        return source.rebuild(self.catalogue) if isinstance(source, Frame) else self.dataset.catalogue

    def user(self, name: str) -> int:
        """Return the row of the user of that id; an unknown one is an error with the nearest."""
        known = self.dataset.interactions.user_ids
        found = np.flatnonzero(known == name)
        if not len(found):
            raise FedrecError(f"no user is called '{name}' in {self.dataset.name}.{_near(name, known)}")
        return int(found[0])

    def of_user(self, row: int) -> UserRanker:
        """Return how the model ranks for a user from all that they used, what the test held out included."""
        device = self.dataset.devices[row]
        return self.ranker(np.concatenate([device.known, device.test]), None, row)

    def ranker(
        self, history: NDArray[Any], values: NDArray[np.float32] | None = None, user: int = NOBODY
    ) -> UserRanker:
        """Return how the model ranks for a history; one who was not there when it was trained is folded in."""
        rows = history.astype(np.int32)
        node = self.settings.document["model"]
        if has_light_model(node):
            private = self._kept(RankerFactory(node, len(self.catalogue), self.arrays).model.private_arrays(), user)
            return RankerFactory(node, len(self.catalogue), self.arrays, private).ranker(rows, values)
        return self._of_model(rows, user)

    def _of_model(self, rows: NDArray[np.int32], user: int) -> UserRanker:
        experiment, catalogue = self.settings.experiment, self.items
        private = self._kept(experiment.build_model(catalogue).private_arrays(), user)
        return model_ranker(experiment, catalogue, self.arrays, private, rows, self.round)

    def _kept(self, like: Arrays, user: int) -> Arrays:
        if user == NOBODY or not (self.folder.private / "values.f32").exists():
            return {}
        users = self.dataset.interactions.users
        return MmapPrivateStore(self.folder.private, users, like).load(user, self.round + 1)


def _near(name: str, known: NDArray[np.str_]) -> str:
    """Return the nearest user ids; among many, those that look alike, else the range."""
    return suggest(name, known.tolist()) if len(known) <= 20 else _nearest_of_many(name, known)


def _nearest_of_many(name: str, known: NDArray[np.str_]) -> str:
    if all(one.isdecimal() and len(one) < 19 for one in (name, *known.tolist())):
        numbers = known.astype(np.int64)
        order = np.argsort(np.abs(numbers - int(name)), kind="stable")[:3]
        return f" Nearest: {', '.join(str(numbers[row]) for row in order)}."
    hint = suggest(name, known.tolist())
    return hint if "Did you mean" in hint else f" There are {len(known):,}, such as {', '.join(known[:3].tolist())}."
