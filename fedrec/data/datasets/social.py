"""Social media: Gowalla, Last.fm and FilmTrust, two of them with links between users.

Gowalla check-ins in the split of NGCF and LightGCN (He et al. 2020, arXiv:2002.02126); Last.fm listens of HetRec 2011
(Cantador, Brusilovsky and Kuflik 2011); FilmTrust (Guo, Zhang and Yorke-Smith 2013): ratings of films, and who trusts
whom.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset, pairs
from fedrec.data.interactions import DeviceTable, Interactions
from fedrec.data.io.columns import joined
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.io.lists import read_sequences
from fedrec.data.io.parquet import unpacked
from fedrec.data.io.table import Table
from fedrec.data.prepare import PrepareOptions, prepare_dataset, unordered
from fedrec.data.sources import LEAVE_LAST_OUT, DownloadableSource, LocalSource, rows_of
from fedrec.data.splits import hold_out, published_rows
from fedrec.errors import FedrecError

PUBLISHER = "publisher"
SPLIT = "publisher: test = test.txt (several places a user), validation = one of train.txt, drawn with seed 0"


@dataclass(frozen=True, kw_only=True)
class Gowalla(LocalSource):
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
        plan = PrepareOptions(self.name, unordered(rows), shuffled=True)
        if self.split == PUBLISHER:
            if self.minimum > 1:
                raise FedrecError(f"dataset.minimum={self.minimum}: the publisher's split is for all users; set 1")
            plan = PrepareOptions(self.name, plan.catalogue, _published(test), SPLIT, shuffled=True)
        return prepare_dataset(rows, self, plan)


def _joined(train: Table, test: Table) -> Table:
    columns = {name: joined([*train.columns[name].chunks, *test.columns[name].chunks]) for name in ("user", "item")}
    return Table(columns, lambda row: train.place(row) if row < len(train) else test.place(row - len(train)))


def _published(test: Table) -> Callable[[Interactions, Catalogue], DeviceTable]:
    def divide(interactions: Interactions, catalogue: Catalogue) -> DeviceTable:
        held = np.zeros(len(interactions), bool)
        held[published_rows(test, test.tokens("user"), test.tokens("item"), interactions, catalogue)] = True
        return hold_out(interactions, held)

    return divide


FRIENDS = "user_friends.dat"


@dataclass(frozen=True, kw_only=True)
class HetRecLastFM(DownloadableSource):
    """92,834 pairs of 1,892 listeners and 17,632 artists; the value is how often a listener played the artist.

    Listens carry no time and stand in the file by weight, so what is held out follows a seeded random order. Artists
    are numbered in the order in which listeners first named them: the number says who came first, and is no feature.
    Tags are what users wrote, so they are none either. Friends are links, in both directions.
    """

    name: ClassVar[str] = "hetrec2011-lastfm-2k"
    needed: ClassVar[str] = "user_artists.dat"
    address: ClassVar[str] = "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip"
    pinned: ClassVar[str] = "sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c"

    def load(self) -> Dataset:
        """Read user_artists.dat and artists.dat."""
        files = self.files()
        listens = read_delimited(files.read("user_artists.dat"), files.label("user_artists.dat"), Layout("\t"))
        listens.require(("userID", "artistID", "weight"))
        artists = read_delimited(files.read("artists.dat"), files.label("artists.dat"), Layout("\t"))
        artists.require(("id", "name"))
        ids = artists.keys("id")
        features = np.empty((len(ids), 0), np.float32)
        catalogue = Catalogue(np.array(ids), np.array(artists.texts("name")), features, (), "item file")
        rows = rows_of(listens, "userID", "artistID", None, "weight")
        links = None
        if files.has(FRIENDS):
            friends = read_delimited(files.read(FRIENDS), files.label(FRIENDS), Layout("\t"))
            links = pairs(friends, "userID", "friendID")
        return prepare_dataset(rows, self, PrepareOptions(self.name, catalogue, shuffled=True, links=links))


@dataclass(frozen=True, kw_only=True)
class FilmTrust(LocalSource):
    """35,497 ratings, 0.5 to 4, of 1,508 users on 2,071 films; 1,853 statements of trust as directed links.

    There is no time, and films are numbered in the order in which the file first names them: the number says who
    rated the film first. So what is held out follows a seeded random order, and the number is no feature.
    """

    name: ClassVar[str] = "filmtrust"
    needed: ClassVar[tuple[str, ...]] = ("ratings.txt",)
    publisher: ClassVar[str] = "its authors, as ratings.txt and trust.txt"

    def load(self) -> Dataset:
        """Read ratings.txt, and trust.txt where it is there."""
        files, needed = self.files()
        layout = Layout(" ", columns=("user", "item", "rating"))
        table = read_delimited(files.read(needed), files.label(needed), layout)
        rows = rows_of(table, "user", "item", None, "rating")
        links = None
        if files.has("trust.txt"):
            columns = Layout(" ", columns=("user", "trusted", "trust"))
            trust = read_delimited(files.read("trust.txt"), files.label("trust.txt"), columns)
            links = pairs(trust, "user", "trusted")
        return prepare_dataset(rows, self, PrepareOptions(self.name, unordered(rows), shuffled=True, links=links))
