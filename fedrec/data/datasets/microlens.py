"""MicroLens-50k: short videos in the order in which they were commented on (Ni et al. 2023, arXiv:2309.15379)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrec.data.catalogue import Catalogue, common_words, multi_hot
from fedrec.data.dataset import Dataset
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.io.lists import read_sequences
from fedrec.data.prepare import PrepareOptions, prepare_dataset
from fedrec.data.sources import LocalSource, rows_of

PAIRS, TITLES = "MicroLens-50k_pairs.tsv", "MicroLens-50k_titles.csv"
LEAST_VIDEOS = 20  # of a tag that becomes a feature


@dataclass(frozen=True, kw_only=True)
class MicroLens50K(LocalSource):
    """359,708 interactions of 50,000 users with 19,220 videos, lines in the order of time within each user.

    The titles file lists just the videos that somebody used, so the catalogue is called taken from interactions.
    Features are the tags in its titles ("# animation") that at least 20 videos share; the numbers of videos mean
    nothing and are no feature.
    """

    name: ClassVar[str] = "microlens-50k"
    needed: ClassVar[tuple[str, ...]] = (PAIRS,)
    publisher: ClassVar[str] = "Westlake University, the MicroLens authors"

    def load(self) -> Dataset:
        """Read the pairs and the titles."""
        files, needed = self.files()
        rows = rows_of(read_sequences(files.read(needed), files.label(needed), "\t"), "user", "item", None, None)
        layout = Layout(quoted=True)
        table = read_delimited(files.read(TITLES), files.label(TITLES), layout)
        table.require(("item", "title"))
        ids, titles = table.keys("item"), table.texts("title")
        flags, tags = multi_hot(common_words([tags_of(title) for title in titles], LEAST_VIDEOS))
        names = tuple(f"tag:{tag}" for tag in tags)
        catalogue = Catalogue(np.array(ids), np.array(titles), flags, names, "interactions")
        return prepare_dataset(rows, self, PrepareOptions(self.name, catalogue))


def tags_of(title: str) -> list[str]:
    """Return the tags of "a dance # Funny # two yuan": funny, two yuan."""
    return sorted({tag for part in title.split("#")[1:] if (tag := part.strip().lower())})
