"""MovieLens: 100K and 1M as GroupLens publishes them, and latest-small, shipped with fedrec under GroupLens' terms.

Harper and Konstan 2015, doi:10.1145/2827872.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedrec.data.catalogue import Catalogue, films, multi_hot, split_genres, year_of
from fedrec.data.dataset import Dataset
from fedrec.data.download import Files, open_files
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.io.parquet import read_parquet
from fedrec.data.io.table import Table
from fedrec.data.prepare import PrepareOptions, prepare_dataset
from fedrec.data.sources import LEAVE_LAST_OUT, DownloadableSource, SourceOptions, rows_of
from fedrec.data.splits import NCF_SPLIT, PUBLISHER_SPLIT, ncf_split, publisher_split
from fedrec.errors import FedrecError

RATING = ("user", "item", "rating", "time")
TAB = Layout("\t", columns=RATING)
ADDRESS = "https://files.grouplens.org/datasets/movielens"


@dataclass(frozen=True, kw_only=True)
class MovieLens100K(DownloadableSource):
    """100,000 ratings of 943 users on 1,682 films; its catalogue is u.item, its published split ua.base and ua.test."""

    name: ClassVar[str] = "ml-100k"
    needed: ClassVar[str] = "u.data"
    address: ClassVar[str] = f"{ADDRESS}/ml-100k.zip"
    pinned: ClassVar[str] = "sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
    splits: ClassVar[tuple[str, ...]] = (LEAVE_LAST_OUT, "publisher")

    def load(self) -> Dataset:
        """Read u.data and u.item."""
        files = self.files()
        rows = rows_of(
            read_delimited(files.read("u.data"), files.label("u.data"), TAB), "user", "item", "time", "rating"
        )
        plan = PrepareOptions(self.name, _films_100k(files))
        if self.split == "publisher":
            _all_rows(self)
            plan = PrepareOptions(self.name, plan.catalogue, publisher_split(files, TAB), PUBLISHER_SPLIT)
        return prepare_dataset(rows, self, plan)


@dataclass(frozen=True, kw_only=True)
class MovieLens1M(DownloadableSource):
    """1,000,209 ratings of 6,040 users; its catalogue is movies.dat with 3,883 films.

    `ncf_path` is the folder of NCF's published split, by default ml-1m-ncf beside the source.
    """

    name: ClassVar[str] = "ml-1m"
    needed: ClassVar[str] = "ratings.dat"
    address: ClassVar[str] = f"{ADDRESS}/ml-1m.zip"
    pinned: ClassVar[str] = "sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
    splits: ClassVar[tuple[str, ...]] = (LEAVE_LAST_OUT, "ncf")

    ncf_path: str | None = None

    def load(self) -> Dataset:
        """Read ratings.dat and movies.dat."""
        files = self.files()
        layout = Layout("::", columns=RATING)
        table = read_delimited(files.read("ratings.dat"), files.label("ratings.dat"), layout)
        plan = PrepareOptions(self.name, _films_1m(files))
        if self.split == "ncf":
            _all_rows(self)
            folder = Path(self.ncf_path) if self.ncf_path else files.place.parent / "ml-1m-ncf"
            plan = PrepareOptions(self.name, plan.catalogue, ncf_split(folder), NCF_SPLIT)
        return prepare_dataset(rows_of(table, "user", "item", "time", "rating"), self, plan)


def _all_rows(source: DownloadableSource) -> None:
    """Refuse filters under a published split: it names rows that they would take away."""
    if source.threshold is not None or source.minimum > 1:
        message = f"dataset.split={source.split} is published for all ratings of {source.name}"
        raise FedrecError(f"{message}: unset dataset.threshold and dataset.minimum, or take {LEAVE_LAST_OUT}")


def _films_100k(files: Files) -> Catalogue:
    """Read u.item, whose flags are named by u.genre and whose year is that of release."""
    layout = Layout("|", "latin-1", ("genre", "number"))
    genres = read_delimited(files.read("u.genre"), files.label("u.genre"), layout).texts("genre")
    columns = ("item", "title", "released", "video", "url", *genres)
    table = read_delimited(files.read("u.item"), files.label("u.item"), Layout("|", "latin-1", columns))
    flags = np.stack([table.numbers(genre) for genre in genres], axis=1).astype(np.float32)
    years = [float(text[-4:]) if text[-4:].isdecimal() else float("nan") for text in table.texts("released")]
    return films(table.keys("item"), table.texts("title"), flags, genres, years)


def _films_1m(files: Files) -> Catalogue:
    """Read movies.dat, whose titles end with the year."""
    layout = Layout("::", "latin-1", ("item", "title", "genres"))
    table = read_delimited(files.read("movies.dat"), files.label("movies.dat"), layout)
    flags, genres = multi_hot([split_genres(text) for text in table.texts("genres")])
    titles = table.texts("title")
    return films(table.keys("item"), titles, flags, genres, [year_of(title) for title in titles])


SHIPPED = Path(__file__).parents[1] / "shipped" / "ml-latest-small"
QUOTED = Layout(quoted=True)


@dataclass(frozen=True, kw_only=True)
class MovieLensLatestSmall(SourceOptions):
    """100,004 ratings of 671 users on 9,066 films.

    The shipped copy lists rated films only, so the origin of its catalogue is "interactions". With `path` the
    publisher's own archive or folder is read, whose movies.csv lists 9,125.
    """

    name: ClassVar[str] = "ml-latest-small"

    def load(self) -> Dataset:
        """Read the shipped copy, or the publisher's files where `path` is set."""
        if self.path is None:
            ratings, movies = read_parquet(SHIPPED / "ratings.parquet"), read_parquet(SHIPPED / "movies.parquet")
            catalogue = replace(_films(movies), origin="interactions")
        else:
            files = open_files(Path(self.path), self.name, "ratings.csv")
            ratings = read_delimited(files.read("ratings.csv"), files.label("ratings.csv"), QUOTED)
            catalogue = _films(read_delimited(files.read("movies.csv"), files.label("movies.csv"), QUOTED))
        ratings.require(("userId", "movieId", "timestamp", "rating"))
        rows = rows_of(ratings, "userId", "movieId", "timestamp", "rating")
        return prepare_dataset(rows, self, PrepareOptions(self.name, catalogue))


def _films(table: Table) -> Catalogue:
    """Take films whose titles end with the year; one without a title is called by its id."""
    table.require(("movieId", "title", "genres"))
    ids = table.keys("movieId")
    titles = [title or item for title, item in zip(table.texts("title"), ids, strict=True)]
    flags, genres = multi_hot([split_genres(text) for text in table.texts("genres")])
    return films(ids, titles, flags, genres, [year_of(title) for title in titles])
