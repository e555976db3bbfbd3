"""MovieLens latest-small, the 2016 edition: shipped with fedrec under GroupLens' terms, which stand beside it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from fedrec.data.archive import open_files
from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.features import films, multi_hot, split_genres, year_of
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.io.parquet import read_parquet
from fedrec.data.io.table import Table
from fedrec.data.prepare import Plan, assemble
from fedrec.data.sources import Settings, rows_of

SHIPPED = Path(__file__).parents[1] / "shipped" / "ml-latest-small"
QUOTED = Layout(quoted=True)


@dataclass(frozen=True, kw_only=True)
class MovieLensLatestSmall(Settings):
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
        return assemble(rows, self, Plan(self.name, catalogue))


def _films(table: Table) -> Catalogue:
    """Take films whose titles end with the year; one without a title is called by its id."""
    table.require(("movieId", "title", "genres"))
    ids = table.keys("movieId")
    titles = [title or item for title, item in zip(table.texts("title"), ids, strict=True)]
    flags, genres = multi_hot([split_genres(text) for text in table.texts("genres")])
    return films(ids, titles, flags, genres, [year_of(title) for title in titles])
