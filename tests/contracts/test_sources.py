"""What every data source that needs no download promises, whatever its layout: the same rows, split and named alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fedrec.data.dataset import Dataset, DataSource
from fedrec.data.datasets.csv import Delimited
from fedrec.data.datasets.ecommerce import AmazonVideoGames, OnlineRetailII
from fedrec.data.datasets.enrolled_devices import Enrolled
from fedrec.data.datasets.frame import Frame, hold, read_frame
from fedrec.data.datasets.microlens import MicroLens50K
from fedrec.data.datasets.movielens import MovieLens1M, MovieLens100K
from fedrec.data.datasets.recbole import RecBole
from fedrec.data.datasets.social import FilmTrust, Gowalla, HetRecLastFM
from fedrec.data.datasets.synthetic import Synthetic, SyntheticLarge
from fedrec.experiment.settings import load
from fedrec.testing import DatasetContract
from fedrec.testing.models import made_by
from tests.support.data_layouts import write_ml_1m, write_ml_100k
from tests.support.scenario_layouts import (
    write_filmtrust,
    write_gowalla,
    write_lastfm,
    write_microlens,
    write_online_retail,
    write_video_games,
)

ROWS = [
    ("ann", "7", 5.0, 3.0),
    ("bob", "9", 1.0, 5.0),
    ("ann", "9", 2.0, 4.0),
    ("bob", "11", 8.0, 1.0),
    ("ann", "11", 9.0, 2.0),
]


def text_file(path: Path, separator: str, header: str) -> Path:
    body = [separator.join([user, item, f"{time:g}", f"{value:g}"]) for user, item, time, value in ROWS]
    path.write_text("\n".join([header, *body]) + "\n")
    return path


def csv_file(folder: Path) -> DataSource:
    path = text_file(folder / "log.csv", ",", "user,item,time,value")
    return Delimited(path=str(path), columns={"value": "value"})


def tab_file(folder: Path) -> DataSource:
    path = text_file(folder / "log.tsv", "\t", "who\twhat\twhen\tstars")
    columns = {"user": "who", "item": "what", "time": "when", "value": "stars"}
    return Delimited(path=str(path), columns=columns, separator="tab")


def parquet_file(folder: Path) -> DataSource:
    user, item, time, value = zip(*ROWS, strict=True)
    table = pa.table({"user": user, "item": [int(name) for name in item], "time": time, "value": value})
    parquet.write_table(table, folder / "log.parquet")
    return Delimited(path=str(folder / "log.parquet"), columns={"value": "value"})


def recbole_folder(folder: Path) -> DataSource:
    (folder / "log").mkdir(exist_ok=True)
    header = "user_id:token\titem_id:token\ttimestamp:float\trating:float"
    text_file(folder / "log" / "log.inter", "\t", header)
    return RecBole(path=str(folder / "log"))


def written(write: Callable[[Path], Path], kind: Callable[..., DataSource]) -> Callable[[Path], DataSource]:
    def make(folder: Path) -> DataSource:
        place = folder / "files"
        return kind(path=str(place if place.exists() else write(place)))

    return make


OF_ROWS: Mapping[str, Callable[[Path], DataSource]] = {
    "csv": csv_file, "tabs": tab_file, "parquet": parquet_file, "recbole": recbole_folder
}  # fmt: skip


def frame_in_memory(_: Path) -> DataSource:
    user, item, time, value = (list(column) for column in zip(*ROWS, strict=True))
    held, columns = read_frame({"user": user, "item": item, "time": time, "value": value}, {})
    return Frame(columns=asdict(columns), content=hold(held))


def enrolled_devices(folder: Path) -> DataSource:
    """Return the histories of ROWS as devices would hold them, a file each."""
    histories = folder / "histories"
    histories.mkdir(exist_ok=True)
    (folder / "items.csv").write_text("id,title\n" + "".join(f"{n},Film {n}\n" for n in (7, 9, 11)))
    for name in ("ann", "bob"):
        lines = [f"{item},{time:g},{value:g}" for user, item, time, value in ROWS if user == name]
        (histories / f"{name}.csv").write_text("\n".join(["item,time,value", *lines]) + "\n")
    return Enrolled(path=str(folder / "items.csv"), histories=str(histories))


KINDS: Mapping[str, Callable[[Path], DataSource]] = {
    **OF_ROWS,
    "frame": frame_in_memory,
    "enrolled": enrolled_devices,
    "online-retail-ii": written(write_online_retail, OnlineRetailII),
    "amazon-video-games": written(write_video_games, AmazonVideoGames),
    "filmtrust": written(write_filmtrust, FilmTrust),
    "gowalla": written(write_gowalla, partial(Gowalla, split="leave-last-out")),
    "microlens-50k": written(write_microlens, MicroLens50K),
    "hetrec2011-lastfm-2k": written(write_lastfm, HetRecLastFM),
    "ml-100k": written(write_ml_100k, MovieLens100K),
    "ml-1m": written(write_ml_1m, MovieLens1M),
    "synthetic": lambda _: Synthetic(users=12, items=15, interactions=120),
    "synthetic-large": lambda folder: SyntheticLarge(users=9, items=200, per_user=4, path=str(folder / "large")),
    "ml-latest-small": lambda _: load(["dataset=ml-latest-small"]).experiment.dataset,
}


@pytest.fixture(params=sorted(KINDS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> DataSource:
    return KINDS[request.param](tmp_path)


PUBLISHERS: Mapping[str, Callable[[Path], DataSource]] = {
    "gowalla": written(write_gowalla, Gowalla),
}


class TestEverySource(DatasetContract):
    """fedrec's own data sets, held to what somebody else's is held to; those whose publisher split them too."""

    @pytest.fixture(
        scope="class", params=[*sorted(KINDS), *(f"{name}, as published" for name in PUBLISHERS)], autouse=True
    )
    def built(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        name, _, published = request.param.partition(",")
        folder = tmp_path_factory.mktemp("source")
        suite: Any = type(self)
        suite.make = staticmethod(lambda: (PUBLISHERS if published else KINDS)[name](folder))
        yield
        del suite.make

    @pytest.fixture(scope="class")
    def dataset(self, built: None) -> Dataset:
        return made_by(type(self))().load()


def held(data: Dataset, user: int) -> list[int]:
    device = data.devices[user]
    return [*device.history.tolist(), *device.validation.tolist(), *device.test.tolist()]


def test_devices_and_catalogue_are_those_of_the_interactions(source: DataSource) -> None:
    data = source.load()
    assert len(data.devices) == data.interactions.users == len(data.interactions.user_ids) > 0
    assert data.devices.items == data.interactions.items == len(data.catalogue) > 0
    assert data.catalogue.features.shape == (len(data.catalogue), len(data.catalogue.feature_names))
    assert np.isfinite(data.catalogue.features).all()
    assert len(set(data.catalogue.ids.tolist())) == len(data.catalogue)
    assert len(set(data.interactions.user_ids.tolist())) == data.interactions.users
    assert len(data.devices.item) == len(data.interactions)
    item = np.asarray(data.interactions.item)
    assert ((item >= 0) & (item < len(data.catalogue))).all()


def test_every_user_holds_out_the_last_two_where_there_are_two(source: DataSource) -> None:
    data = source.load()
    for user in range(min(len(data.devices), 40)):
        device, many = data.devices[user], len(held(data, user))
        assert (len(device.test), len(device.validation)) == ((1, 1) if many >= 2 else (0, 0))
        assert len(device.values) == len(device.history) and len(device.test_values) == len(device.test)


def test_loading_twice_gives_the_same_down_to_its_name(source: DataSource) -> None:
    one, other = source.load(), source.load()
    assert (one.name, one.population, one.split, one.repairs) == (
        other.name,
        other.population,
        other.split,
        other.repairs,
    )
    assert one.population and one.split and "/" not in one.population
    for field in ("start", "validation_from", "test_from", "item", "value"):
        assert np.array_equal(getattr(one.devices, field), getattr(other.devices, field)), field
    for field in ("ids", "titles", "features"):
        assert np.array_equal(getattr(one.catalogue, field), getattr(other.catalogue, field)), field


def test_a_population_can_be_named(source: DataSource) -> None:
    named: Any = replace(source, population="our people")  # type: ignore[type-var]
    assert named.load().population == "our people"


def test_refitting_moves_the_validation_into_the_history_and_nothing_else(source: DataSource) -> None:
    devices = source.load().devices
    again = devices.refitted()
    for user in range(min(len(devices), 40)):
        before, after = devices[user], again[user]
        assert after.history.tolist() == before.known.tolist() and not len(after.validation)
        assert after.test.tolist() == before.test.tolist()


@pytest.mark.parametrize("name", sorted(OF_ROWS))
def test_one_table_is_one_data_set_in_whatever_file_it_lies(name: str, tmp_path: Path) -> None:
    data = OF_ROWS[name](tmp_path).load()
    assert data.interactions.user_ids.tolist() == ["ann", "bob"]
    assert data.catalogue.ids.tolist() == ["7", "9", "11"], "by number, and 9 comes before 11"
    assert [data.catalogue.ids[held(data, user)].tolist() for user in (0, 1)] == [["9", "7", "11"], ["9", "11"]]
    assert data.devices[0].values.tolist() == [4.0] and data.devices[1].test_values.tolist() == [1.0]


def test_content_names_a_population_and_the_file_that_it_lies_in_does_not_change_its_hash(tmp_path: Path) -> None:
    one = csv_file(tmp_path).load().population
    (tmp_path / "log.csv").write_text((tmp_path / "log.csv").read_text() + "bob,7,9,1\n")
    other = Delimited(path=str(tmp_path / "log.csv"), columns={"value": "value"}).load().population
    assert one.partition("-")[0] == other.partition("-")[0] == "log" and one != other
