"""Last.fm listens of HetRec 2011 (Cantador, Brusilovsky and Kuflik 2011), as GroupLens publishes them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.links import pairs
from fedrec.data.prepare import Plan, assemble
from fedrec.data.published import Published
from fedrec.data.sources import rows_of

FRIENDS = "user_friends.dat"


@dataclass(frozen=True, kw_only=True)
class HetRecLastFM(Published):
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
        return assemble(rows, self, Plan(self.name, catalogue, shuffled=True, links=links))
