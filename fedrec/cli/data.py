"""What `fedrec data list | get | check` do, without the command line.

`fedrec data split`: a data set as the files of devices, to try real devices with real data.
"""

import csv
from pathlib import Path

import numpy as np

from fedrec.data.dataset import Dataset, DataSource
from fedrec.data.datasets.ecommerce import AmazonVideoGames, OnlineRetailII
from fedrec.data.datasets.microlens import MicroLens50K
from fedrec.data.datasets.movielens import SHIPPED, MovieLens1M, MovieLens100K, MovieLensLatestSmall
from fedrec.data.datasets.social import FilmTrust, Gowalla, HetRecLastFM
from fedrec.data.datasets.synthetic import Synthetic
from fedrec.data.download import cache
from fedrec.data.interactions import FlatInteractions
from fedrec.data.io.catalogue_csv import write_items
from fedrec.data.io.device_csv import COLUMNS
from fedrec.data.sources import DownloadableSource, LocalSource, SourceOptions
from fedrec.errors import FedrecError

PUBLISHED: dict[str, type[DownloadableSource]] = {
    kind.name: kind for kind in (MovieLens100K, MovieLens1M, HetRecLastFM)
}
PROVIDED: tuple[type[LocalSource], ...] = (OnlineRetailII, AmazonVideoGames, FilmTrust, Gowalla, MicroLens50K)
PROVIDED_SIZES = {
    "online-retail-ii": "273,844 first purchases, 4,285 users, 4,006 items",
    "amazon-video-games": "287,107 reviews, 31,013 users, 23,715 games",
    "filmtrust": "35,497 ratings, 1,508 users, 2,071 films",
    "gowalla": "1,027,370 visits, 29,858 users, 40,981 places",
    "microlens-50k": "359,708 uses, 50,000 users, 19,220 videos",
}
SHIPPED_NAME = MovieLensLatestSmall.name


def describe() -> list[str]:
    """Return what can be loaded, one line each, in the order in which to try it."""
    last = "leave-last-out"
    sizes = {
        "ml-100k": "100,000 ratings, 943 users, 1,682 films",
        "ml-1m": "1,000,209 ratings, 6,040 users, 3,883 films",
        "hetrec2011-lastfm-2k": "92,834 listens, 1,892 users, 17,632 artists",
    }
    listed = [
        (SHIPPED_NAME, "100,004 ratings, 671 users, 9,066 films", last, f"shipped: {SHIPPED}"),
        *((name, sizes[name], ", ".join(kind.splits), _where(kind)) for name, kind in PUBLISHED.items()),
        *((kind.name, PROVIDED_SIZES[kind.name], ", ".join(kind.splits), "dataset.path=FOLDER") for kind in PROVIDED),
        ("csv", "any CSV or Parquet", last, "dataset.path=FILE dataset.columns.user=..."),
        ("recbole", "any .inter", last, "dataset.path=FILE or its folder"),
        ("synthetic", "as many as asked", last, "drawn: dataset.users=... dataset.seed=..."),
    ]
    return [f"{name:<22}{size:<49}{splits:<26}{where}" for name, size, splits, where in listed]


def get(source: DataSource) -> list[str]:
    """Return where a source's files lie, downloaded from its publisher where no path is set, as one line."""
    if isinstance(source, DownloadableSource):
        return [str(source.files().place)]
    if isinstance(source, MovieLensLatestSmall) and source.path is None:
        return [f"{SHIPPED} (shipped; GroupLens' terms: README.txt)"]
    if isinstance(source, Synthetic):
        return ["synthetic data is drawn from dataset.seed: there is nothing to get"]
    if isinstance(source, SourceOptions) and source.path and Path(source.path).exists():
        return [source.path]
    raise FedrecError(f"{type(source).__name__} reads your own file: dataset.path=FILE names one that exists")


def check(source: DataSource) -> list[str]:
    """Load a source and return what was found, one line each; what is wrong with it raises `FedrecError`."""
    return summary(source.load())


def summary(dataset: Dataset) -> list[str]:
    """Return the sizes, the repairs, the split and the population of a data set, one line each."""
    table, devices = dataset.interactions, dataset.devices
    held = int((devices.test_from - devices.validation_from).sum()), int((devices.start[1:] - devices.test_from).sum())
    return [
        f"{dataset.name}: {len(table):,} interactions, {table.users:,} users, {len(dataset.catalogue):,} items",
        f"catalogue: from the {dataset.catalogue.origin}, {len(dataset.catalogue.feature_names)} features",
        f"split: {dataset.split}",
        f"held out: {held[0]:,} for validation, {held[1]:,} for the test",
        *([f"links between users: {len(dataset.links):,}"] if len(dataset.links) else []),
        *(f"repaired: {what}: {count:,}" for what, count in dataset.repairs),
        f"population: {dataset.population}",
    ]


def _where(kind: type[DownloadableSource]) -> str:
    if (cache() / f"{kind.name}.zip").is_file():
        return str(cache() / f"{kind.name}.zip")
    return f"{kind.address}, or dataset.path=FOLDER"


def hand_out(dataset: Dataset, devices: int, folder: Path) -> list[str]:
    """Write items.csv and one CSV for each of the first users; return what was written, one line each."""
    table = dataset.interactions
    if isinstance(table, FlatInteractions):
        raise FedrecError(f"{dataset.name} has no times to hand out: choose another data set")
    if not 1 <= devices <= table.users:
        raise FedrecError(f"--devices {devices}: {dataset.name} has {table.users} users")
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / "items.csv", dataset.catalogue)
    said = [f"{folder / 'items.csv'}: {len(dataset.catalogue):,} items, public"]
    for user in range(devices):
        rows, path = np.flatnonzero(table.user == user), folder / f"{user + 1:0{len(str(devices))}}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in rows:
                item = dataset.catalogue.ids[table.item[row]]
                writer.writerow([item, f"{table.time[row]:.17g}", f"{table.value[row]:.9g}", "rating"])
        said.append(f"{path}: {len(rows):,} interactions of user {table.user_ids[user]}")
    return said
