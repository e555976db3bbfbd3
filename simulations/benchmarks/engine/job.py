"""The job as a data set and a model of ours: of the shipped users, or by the bench's own scripts, copied first."""

import importlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.interactions import DeviceTable, Interactions
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import load
from fedrec.models.base import TrainableRecommender, labelled, linear_over_parts
from fedrec.models.closed_forms import NeuralCF

SHIPPED = "ml-latest-small"
SCRIPTS = ("job.py", "net.py", "loop.py", "flower_ray.py", "pfl_loop.py")


def prepare(bench: Path, data: Path, work: Path, names: list[str]) -> None:
    """Copy the bench's scripts to `work/bench`, beside a link to the data, and let them make the job's arrays once."""
    for file in SCRIPTS:
        if not (bench / file).exists():
            raise FedrecError(f"{bench / file} does not exist: --bench is the folder with {', '.join(SCRIPTS)}")
    (work / "bench").mkdir(parents=True, exist_ok=True)
    for file in SCRIPTS:
        shutil.copy(bench / file, work / "bench" / file)
    if not (work / "data").exists():
        (work / "data").symlink_to(data.resolve())
    for name in names:
        if not (work / "bench" / f"job-{name}.npz").exists():
            script("job", work).build(name)


def from_shipped(work: Path, negatives: int = 4) -> None:
    """Make the job's arrays of the shipped users: each one's train items and negatives of each, in random order."""
    dataset, rng = load_dataset(load([f"dataset={SHIPPED}"]).experiment), np.random.default_rng(0)
    items, labels = list[NDArray[np.int32]](), list[NDArray[np.float32]]()
    for device in (dataset.devices[user] for user in range(len(dataset.devices))):
        drawn = rng.integers(0, dataset.devices.items, negatives * len(device.history)).astype(np.int32)
        order = rng.permutation(len(device.history) + len(drawn))
        items.append(np.concatenate([device.history, drawn])[order])
        labels.append((order < len(device.history)).astype(np.float32))
    (work / "bench").mkdir(parents=True, exist_ok=True)
    np.savez(
        work / "bench" / f"job-{SHIPPED}.npz",
        offsets=np.cumsum([0, *map(len, items)]),
        items=np.concatenate(items),
        labels=np.concatenate(labels),
        n_items=dataset.devices.items,
    )


def script(name: str, work: Path) -> ModuleType:
    """Import one of the bench's own scripts."""
    folder = str(work / "bench")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The job's arrays as a data set: negatives are examples like positives, told apart by their value."""

    path: str

    def load(self) -> Dataset:
        """Read the arrays that `prepare` left."""
        table = arrays(Path(self.path))
        users, items = len(table), table.items
        names = np.arange(items).astype(str)
        features = np.zeros((items, 0), np.float32)
        return Dataset(
            name="bench",
            population=f"bench-{os.path.basename(self.path)}",
            interactions=Interactions(
                user=np.repeat(np.arange(users, dtype=np.int32), np.diff(table.start)),
                item=table.item,
                time=np.zeros(len(table.item), np.int64),
                value=table.value,
                user_ids=np.arange(users).astype(str),
                items=items,
            ),
            catalogue=Catalogue(names, names, features, (), "item file"),
            devices=table,
            split="nothing is held out",
            synthetic=True,
        )


def arrays(path: Path) -> DeviceTable:
    """Return the job's devices."""
    with np.load(path) as found:
        start = found["offsets"].astype(np.int64)
        return DeviceTable(start, start[1:], start[1:], found["items"], found["labels"], int(found["n_items"]))


class Network(TrainableRecommender):
    """The job's network: a private user vector and an item's, through 64-32-1; the value is the label."""

    shared = frozenset({"item.weight", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"})
    by_item = frozenset({"item.weight"})
    stackable, ratings, private_std = True, True, 0.1  # as with ratings, no negatives are to be drawn

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__()
        self.items = len(catalogue)
        self.user, self.item = nn.Embedding(1, 32), nn.Embedding(self.items, 32)
        self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, 1)
        self.criterion = labelled
        nn.init.normal_(self.item.weight, std=0.1)

    @property
    def closed_form(self) -> NeuralCF:
        """The network."""
        return NeuralCF("user.weight", "item.weight", ("fc1",), "fc2")

    def forward(self, items: Tensor) -> Tensor:
        """Return logits [..., 1] for items [..., 1]."""
        item = self.item(items)
        user = self.user(self.user_rows(items)).unsqueeze(-2).expand_as(item)
        return self.fc2(torch.relu(linear_over_parts(self.fc1, user, item))).squeeze(-1)

    def scores(self, history: Tensor) -> Tensor:
        """Return a score for every item."""
        return self(torch.arange(self.items).unsqueeze(1)).squeeze(1)


def spread_out(sizes: NDArray[np.int64], many: int) -> NDArray[np.int64]:
    """Return devices from all over the range of sizes, so that a few stand for all: each the middle of its share."""
    order = np.argsort(sizes, kind="stable")
    return order[((np.arange(many) + 0.5) * len(sizes) / many).astype(np.int64)]
