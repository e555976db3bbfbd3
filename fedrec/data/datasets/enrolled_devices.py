"""Real devices: a public list of items, and as many users as devices were admitted; what they did stays with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.interactions import Interactions
from fedrec.data.io.csv_files import read_device_file, read_items
from fedrec.data.io.table import Tokens
from fedrec.data.io.times import TimeOptions, from_floats
from fedrec.data.prepare import PrepareOptions, prepare_dataset
from fedrec.data.sources import LEAVE_LAST_OUT, Rows, SourceOptions
from fedrec.data.splits import leave_last_out
from fedrec.errors import FedrecError

EVERYTHING = "none"


@dataclass(frozen=True, kw_only=True)
class Enrolled(SourceOptions):
    """`path` is the list of items; `devices` how many are admitted, which `fedrec server start` fills in.

    `interactions_per_device` is a public guess that delta rests on at interaction level. `split` is what devices hold
    back: "leave-last-out" (their two newest, for those that let themselves be evaluated) or "none". `histories`, for
    simulations only, is a folder with one CSV a device: the same experiment then runs without devices.
    """

    splits: ClassVar[tuple[str, ...]] = (LEAVE_LAST_OUT, EVERYTHING)

    devices: int | None = None
    interactions_per_device: int = 100
    histories: str | None = None

    def load(self) -> Dataset:
        """Read the items; and the histories, in a simulation."""
        if self.path is None:
            raise FedrecError("dataset.path is not set: it names the list of items, a CSV with id,title and features")
        if self.minimum > 1:
            raise FedrecError(f"dataset.minimum={self.minimum}: nobody counts what real devices hold; leave it at 1")
        if self.order not in (None, "time"):
            raise FedrecError(
                f"dataset.order={self.order}: devices know when their interactions were; leave it at null"
            )
        items = read_items(Path(self.path))
        return self.public_dataset(items) if self.histories is None else self._simulated(items, Path(self.histories))

    def public_dataset(self, catalogue: Catalogue) -> Dataset:
        """Return what everybody may know of the population: its size and its items, and no interaction."""
        if not self.devices:
            raise FedrecError(
                "dataset.devices is not set: `fedrec server start` fills in how many were admitted; "
                "to simulate, name a folder of device files in dataset.histories"
            )
        none = np.zeros(0, np.int32)
        names = np.array([str(row) for row in range(self.devices)])
        interactions = Interactions(none, none, np.zeros(0, np.int64), np.zeros(0, np.float32), names, len(catalogue))
        return Dataset(
            name="devices",
            population=self.population or "devices",
            interactions=interactions,
            catalogue=catalogue,
            devices=leave_last_out(interactions),
            split=f"on the devices: {self.split}",
            nominal_interactions=self.devices * self.interactions_per_device,
        )

    def _simulated(self, catalogue: Catalogue, folder: Path) -> Dataset:
        if self.split == EVERYTHING:
            raise FedrecError("dataset.split=none: a simulation needs something held out; use leave-last-out")
        files = sorted(p for p in folder.glob("*.csv") if p.resolve() != Path(str(self.path)).resolve())
        if not files:
            raise FedrecError(f"{folder}: no device files (*.csv) there; dataset.histories names their folder")
        rows = [(number, row) for number, path in enumerate(files) for row in read_device_file(path)]
        items = {item: code for code, item in enumerate(dict.fromkeys(row.item for _, row in rows))}
        moments = from_floats(np.array([row.time for _, row in rows], np.float64), TimeOptions())
        table = Rows(
            user=Tokens(np.array([number for number, _ in rows], np.int64), tuple(path.stem for path in files)),
            item=Tokens(np.array([items[row.item] for _, row in rows], np.int64), tuple(items)),
            time=moments.values,
            value=np.array([row.value for _, row in rows]),
            place=lambda number: f"{files[rows[number][0]]}",
            clock=moments.clock,
        )
        return prepare_dataset(table, self, PrepareOptions("devices", catalogue))
