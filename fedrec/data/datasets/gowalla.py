"""Gowalla check-ins in the split of NGCF and LightGCN (He et al. 2020, arXiv:2002.02126)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.devices import DeviceTable
from fedrec.data.interactions import Interactions
from fedrec.data.io.sequences import read_sequences, unpacked
from fedrec.data.io.table import Table
from fedrec.data.prepare import Plan, assemble, unordered
from fedrec.data.provided import Provided
from fedrec.data.sources import LEAVE_LAST_OUT, rows_of
from fedrec.data.splits import hold_out, published_rows
from fedrec.errors import FedrecError

PUBLISHER = "publisher"
SPLIT = "publisher: test = test.txt (several places a user), validation = one of train.txt, drawn with seed 0"


@dataclass(frozen=True, kw_only=True)
class Gowalla(Provided):
    """1,027,370 visits of 29,858 users to 40,981 places; `split` is the publisher's, or leave-last-out.

    There is no time, and places are numbered in the order in which the file first names them: the number says who
    went there first. So validation follows a seeded random order, and the number is no feature. Friendships are not in
    this edition.
    """

    name: ClassVar[str] = "gowalla"
    needed: ClassVar[tuple[str, ...]] = ("train.txt", "train.txt.gz")
    publisher: ClassVar[str] = "the authors of LightGCN"
    splits: ClassVar[tuple[str, ...]] = (PUBLISHER, LEAVE_LAST_OUT)

    split: str = PUBLISHER

    def load(self) -> Dataset:
        """Read train.txt and test.txt (each may end with .gz)."""
        files, needed = self.files()
        names = needed, needed.replace("train", "test")
        train, test = (read_sequences(unpacked(files, name), files.label(name)) for name in names)
        rows = rows_of(_joined(train, test), "user", "item", None, None)
        plan = Plan(self.name, unordered(rows), shuffled=True)
        if self.split == PUBLISHER:
            if self.minimum > 1:
                raise FedrecError(f"dataset.minimum={self.minimum}: the publisher's split is for all users; set 1")
            plan = Plan(self.name, plan.catalogue, _published(test), SPLIT, shuffled=True)
        return assemble(rows, self, plan)


def _joined(train: Table, test: Table) -> Table:
    columns = {
        name: pa.concat_arrays([train.columns[name], test.columns[name]])  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name in ("user", "item")
    }
    return Table(columns, lambda row: train.place(row) if row < len(train) else test.place(row - len(train)))


def _published(test: Table) -> Callable[[Interactions, Catalogue], DeviceTable]:
    def divide(interactions: Interactions, catalogue: Catalogue) -> DeviceTable:
        held = np.zeros(len(interactions), bool)
        held[published_rows(test, test.tokens("user"), test.tokens("item"), interactions, catalogue)] = True
        return hold_out(interactions, held)

    return divide
