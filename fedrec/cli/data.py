"""`fedrec data list | get | check | split | cache`: data sets, by settings as everywhere or by their bare name."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrec.cli.grammar import Command, Group, examples
from fedrec.cli.options import Json, check_overrides, complete_typed, print_json, reading_shown
from fedrec.errors import FedrecError

if TYPE_CHECKING:
    from fedrec.data.dataset import Dataset, DataSource
    from fedrec.experiment.settings import Settings

SIZES = {
    "ml-latest-small": "100,004 ratings, 671 users, 9,066 films",
    "ml-100k": "100,000 ratings, 943 users, 1,682 films",
    "ml-1m": "1,000,209 ratings, 6,040 users, 3,883 films",
    "hetrec2011-lastfm-2k": "92,834 listens, 1,892 users, 17,632 artists",
    "online-retail-ii": "273,844 first purchases, 4,285 users, 4,006 items",
    "amazon-video-games": "287,107 reviews, 31,013 users, 23,715 games",
    "filmtrust": "35,497 ratings, 1,508 users, 2,071 films",
    "gowalla": "1,027,370 visits, 29,858 users, 40,981 places",
    "microlens-50k": "359,708 uses, 50,000 users, 19,220 videos",
}
FILES = {".csv": "csv", ".tsv": "csv", ".parquet": "csv", ".inter": "recbole"}  # whose reader takes a file of that name

app = typer.Typer(
    name="data",
    cls=Group,
    help="Data sets: what there is, and whether it loads.",
    epilog=examples("fedrec data list", "fedrec data check ml-latest-small"),
)
DatasetSettings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME|FILE] [KEY=VALUE]...",
        help="a name from fedrec data list, a file of yours, or settings as for simulate",
        autocompletion=complete_typed,
    ),
]


@app.command("list", cls=Command, epilog=examples("fedrec data list", "fedrec data list --json"))
def list_command(as_json: Json = False) -> None:
    """Say what there is, and how to get it."""
    found = describe()
    if as_json:
        print_json([dict(zip(("name", "size", "splits", "from"), row, strict=True)) for row in found])
    else:
        print("\n".join(rows(found, sys.stdout.isatty())))


@app.command(
    "get", cls=Command, epilog=examples("fedrec data get ml-100k", "fedrec data get dataset=ml-1m dataset.path=data")
)
def get_command(overrides: DatasetSettings = None, as_json: Json = False) -> None:
    """Download what is missing, from its publisher."""
    show(get(source_of(overrides)), as_json)


@app.command(
    "check",
    cls=Command,
    epilog=examples("fedrec data check ml-latest-small", "fedrec data check dataset=csv dataset.path=purchases.csv"),
)
def check_command(
    overrides: DatasetSettings = None,
    as_json: Json = False,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE", help="write it with pictures as HTML")] = None,
) -> None:
    """Say how a data set was read, what is in it, what is suspicious, and which command is next; status 2 if none."""
    settings, given = settings_of(overrides)
    with reading_shown():
        dataset = settings.source.load()
    from fedrec.report.data_check import DataCheck  # with torch, whose memory the reading need not share

    found = DataCheck.of(settings, dataset, given, reasons(overrides or (), given))
    print_json(found.json()) if as_json else print("\n".join(found.lines()))
    if page is not None:
        from fedrec.report.data_page import write_data_page

        write_data_page(page, found)
    if found.problem:
        raise FedrecError(found.problem)


@app.command(
    "split",
    cls=Command,
    epilog=examples("fedrec data split ml-latest-small", "fedrec data split dataset=ml-100k --devices 5 --to homes"),
)
def split_command(
    overrides: DatasetSettings = None,
    devices: Annotated[int, typer.Option("--devices", help="how many of the first users")] = 2,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="where to write")] = Path("devices"),
    as_json: Json = False,
) -> None:
    """Write one file for each of some devices, to try real devices with real data."""
    show(hand_out(source_of(overrides).load(), devices, to), as_json)


@app.command("cache", cls=Command, epilog=examples("fedrec data cache", "fedrec data cache --clear"))
def cache_command(
    clear: Annotated[
        bool, typer.Option("--clear", help="take all of it out: it is read anew when it is needed")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say which large files are kept as they were read, so that the next start is quick."""
    from fedrec.data import cache

    found = cache.clear() if clear else cache.entries()
    if as_json:
        print_json([{**asdict(entry), "folder": str(entry.folder)} for entry in found])
        return
    lines = [
        f"{one.name}: {one.interactions:,} interactions, {one.size / 2**20:,.0f} MiB, {one.folder}" for one in found
    ]
    what = "taken out" if clear else f"kept, of at most {cache.largest_gb():g} GB"
    print("\n".join([*lines, f"{sum(one.size for one in found) / 2**20:,.0f} MiB {what}"]))


def source_of(settings: Sequence[str] | None) -> "DataSource":
    """Return the data set that a bare name, a file or settings choose; no setting at all chooses the default's."""
    return settings_of(settings)[0].source


def settings_of(settings: Sequence[str] | None) -> "tuple[Settings, list[str]]":
    """Return the settings that a bare name, a file or settings choose, and the overrides that they stand for."""
    given = check_overrides([one for text in settings or () for one in named(text)])
    from fedrec.experiment.settings import load

    return load(given), given


def reasons(typed: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """Return why each part is played by its column: as was typed, or by its name."""
    start = "dataset.columns."
    return {
        text.removeprefix(start).partition("=")[0]: "as set" if text in typed else "by its name"
        for text in given
        if text.startswith(start)
    }


def named(text: str) -> list[str]:
    """Return the settings that a bare name of a data set or of a file stands for; settings are as they are."""
    if "=" in text and not Path(text).exists():
        return [text]
    from fedrec.experiment.overrides import Conf

    path = Path(text)
    if text in Conf.of().groups["dataset"] or not (path.exists() or path.suffix in FILES):
        return [f"dataset={text}"]
    kind = FILES.get(path.suffix, "csv")
    tabs = ["dataset.separator=tab"] if path.suffix == ".tsv" else []
    return [f"dataset={kind}", f"dataset.path={text}", *tabs]


def show(lines: Sequence[Any], as_json: bool) -> None:
    """Print lines of text, or the same as JSON."""
    print_json(list(lines)) if as_json else print("\n".join(str(line) for line in lines))


def describe() -> list[tuple[str, str, str, str]]:
    """Return what can be loaded, in the order in which to try it: name, size, splits and where it comes from."""
    from fedrec.data.datasets.ecommerce import AmazonVideoGames, OnlineRetailII
    from fedrec.data.datasets.microlens import MicroLens50K
    from fedrec.data.datasets.movielens import SHIPPED, MovieLens1M, MovieLens100K, MovieLensLatestSmall
    from fedrec.data.datasets.social import FilmTrust, Gowalla, HetRecLastFM
    from fedrec.data.download import cache

    last, listed = "leave-last-out", list[tuple[str, str, str, str]]()
    shipped = MovieLensLatestSmall.name
    listed.append((shipped, SIZES[shipped], last, f"shipped: {SHIPPED}"))
    for kind in (MovieLens100K, MovieLens1M, HetRecLastFM):
        archive = cache() / f"{kind.name}.zip"
        where = str(archive) if archive.is_file() else f"{kind.address}, or dataset.path=FOLDER"
        listed.append((kind.name, SIZES[kind.name], ", ".join(kind.splits), where))
    for kind in (OnlineRetailII, AmazonVideoGames, FilmTrust, Gowalla, MicroLens50K):
        listed.append((kind.name, SIZES[kind.name], ", ".join(kind.splits), "dataset.path=FOLDER"))
    return [
        *listed,
        ("csv", "any CSV or Parquet", last, "dataset.path=FILE dataset.columns.user=..."),
        ("recbole", "any .inter", last, "dataset.path=FILE or its folder"),
        ("synthetic", "as many as asked", last, "drawn: dataset.users=... dataset.seed=..."),
    ]


def rows(found: Sequence[tuple[str, str, str, str]], terminal: bool) -> list[str]:
    """Return one line a data set; on a terminal that is too narrow, its name and size, and the rest below."""
    import shutil

    widths = [max(len(row[column]) for row in found) for column in range(4)]
    if not terminal or sum(widths) + 6 <= shutil.get_terminal_size().columns:
        return [
            "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in found
        ]
    return [f"{name:<{widths[0]}}  {size}\n    {splits}\n    {where}" for name, size, splits, where in found]


def get(source: "DataSource") -> list[str]:
    """Return where a source's files lie, downloaded from its publisher where no path is set, as one line."""
    from fedrec.data.datasets.movielens import SHIPPED, MovieLensLatestSmall
    from fedrec.data.datasets.synthetic import Synthetic
    from fedrec.data.sources import DownloadableSource, SourceOptions

    if isinstance(source, DownloadableSource):
        return [str(source.files().place)]
    if isinstance(source, MovieLensLatestSmall) and source.path is None:
        return [f"{SHIPPED} (shipped; GroupLens' terms: README.txt)"]
    if isinstance(source, Synthetic):
        return ["synthetic data is drawn from dataset.seed: there is nothing to get"]
    if isinstance(source, SourceOptions) and source.path and Path(source.path).exists():
        return [source.path]
    raise FedrecError(f"{type(source).__name__} reads your own file: dataset.path=FILE names one that exists")


def check(source: "DataSource") -> list[str]:
    """Load a source and return what was found, one line each; what is wrong with it raises `FedrecError`."""
    from fedrec.report.data_check import summary

    return summary(source.load())


def hand_out(dataset: "Dataset", devices: int, folder: Path) -> list[str]:
    """Write items.csv and one CSV for each of the first users; return what was written, one line each."""
    import numpy as np

    from fedrec.data.interactions import FlatInteractions
    from fedrec.data.io.csv_files import COLUMNS, write_items

    table = dataset.interactions
    if isinstance(table, FlatInteractions):
        raise FedrecError(f"{dataset.name} has no times to hand out: choose another data set")
    if not 1 <= devices <= table.users:
        raise FedrecError(f"--devices {devices}: {dataset.name} has {table.users} users")
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / "items.csv", dataset.catalogue)
    said = [f"{folder / 'items.csv'}: {len(dataset.catalogue):,} items, public"]
    times = table.time if dataset.clock.divisor == 1 else dataset.clock.numbers(table.time)
    for user in range(devices):
        found, path = np.flatnonzero(table.user == user), folder / f"{user + 1:0{len(str(devices))}}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in found:
                item = dataset.catalogue.ids[table.item[row]]
                time = times[row] if times.dtype.kind == "i" else f"{times[row]:.17g}"
                writer.writerow([item, time, f"{table.value[row]:.9g}", "rating"])
        said.append(f"{path}: {len(found):,} interactions of user {table.user_ids[user]}")
    return said
