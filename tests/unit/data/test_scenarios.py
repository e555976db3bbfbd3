"""The scenario data sets: hand-made copies of their layouts, and the publishers' data where they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from fedrec.data.catalogue import common_words
from fedrec.data.dataset import Dataset, links_between
from fedrec.data.datasets.ecommerce import AmazonVideoGames, OnlineRetailII
from fedrec.data.datasets.microlens import MicroLens50K, tags_of
from fedrec.data.datasets.social import FilmTrust, Gowalla, HetRecLastFM
from fedrec.data.io.lists import read_sequences
from fedrec.data.io.table import Tokens
from fedrec.data.item_features import feature_vectors
from fedrec.data.prepare import unordered
from fedrec.data.sources import Rows
from fedrec.errors import FedrecError
from fedrec.report.data_check import summary
from tests.support import scenario_layouts as layouts
from tests.support.tiny import interactions_of

Shared = Callable[[str], Path]


def sizes(data: Dataset) -> tuple[int, int, int]:
    return len(data.interactions), data.interactions.users, len(data.catalogue)


def used(data: Dataset, user: int) -> list[str]:
    rows = data.interactions.item[interactions_of(data).user == user]
    return data.catalogue.ids[rows].tolist()


def test_online_retail_by_hand(tmp_path: Path) -> None:
    data = OnlineRetailII(path=str(layouts.write_online_retail(tmp_path / "shop"))).load()
    assert data.interactions.user_ids.tolist() == ["7", "9"]
    assert used(data, 0) == ["10001", "10002A", "10003"] and used(data, 1) == ["10002A", "10001"]
    assert dict(data.repairs) == {
        "lines without a customer": 1,
        "lines of cancellations and adjustments": 1,
        "lines with a quantity below 1": 1,
        "lines of postage, fees, vouchers and tests": 1,
        "repeats of a pair (first kept)": 1,
    }
    assert data.catalogue.titles.tolist() == ["RED LAMP", "SET OF 2, BLUE", "RED MUG"]
    prices = data.catalogue.features[:, data.catalogue.feature_names.index("log price")]
    assert np.exp(prices) == pytest.approx([4.0, 1.0, 2.0])


def test_online_retail_with_repeats_is_the_same_population(tmp_path: Path) -> None:
    path = str(layouts.write_online_retail(tmp_path / "shop"))
    first, every = (OnlineRetailII(path=path, repeats=repeats).load() for repeats in ("first", "all"))
    assert used(every, 0) == ["10001", "10002A", "10003", "10001"]
    assert first.population == every.population
    with pytest.raises(FedrecError, match=r"repeats=frist does not exist. Did you mean 'first'"):
        OnlineRetailII(path=path, repeats="frist")


def test_online_retail_from_parquet_equals_csv(tmp_path: Path) -> None:
    folder = layouts.write_online_retail(tmp_path / "shop")
    (tmp_path / "other").mkdir()
    parquet.write_table(csv.read_csv(folder / "online_retail.csv"), tmp_path / "other" / "online_retail.parquet")
    one, other = (OnlineRetailII(path=str(tmp_path / name)).load() for name in ("shop", "other"))
    assert np.array_equal(one.interactions.item, other.interactions.item)
    assert np.array_equal(interactions_of(one).time, interactions_of(other).time) and one.population == other.population


def test_online_retail_names_the_line_of_a_wrong_time(tmp_path: Path) -> None:
    folder = layouts.write_online_retail(tmp_path / "shop")
    path = folder / "online_retail.csv"
    path.write_text(path.read_text().replace("2010-01-04 10:00:00", "4/1/2010 10:00"))
    with pytest.raises(FedrecError, match=r"online_retail\.csv:6: InvoiceDate '4/1/2010 10:00'"):
        OnlineRetailII(path=str(folder)).load()


def test_video_games_by_hand(tmp_path: Path) -> None:
    data = AmazonVideoGames(path=str(layouts.write_video_games(tmp_path / "games"))).load()
    assert used(data, 0) == ["5", "3", "4"] and "file order" in data.split
    assert data.devices[0].history.tolist() == [2] and data.catalogue.ids[data.devices[0].test[0]] == "4"


def test_filmtrust_by_hand(tmp_path: Path) -> None:
    data = FilmTrust(path=str(layouts.write_filmtrust(tmp_path / "films"))).load()
    assert sizes(data) == (6, 3, 4)
    assert data.links.tolist() == [[1, 0], [1, 2]]  # 2 trusts 1 and 5, said twice; 5 itself is no link
    assert dict(data.repairs) == {"links with a user who has no interactions": 1}
    assert "random order" in data.split and data.catalogue.features.shape == (4, 0)
    assert "links between users: 2" in summary(data)


def test_filmtrust_without_trust(tmp_path: Path) -> None:
    folder = layouts.write_filmtrust(tmp_path / "films")
    (folder / "trust.txt").unlink()
    assert FilmTrust(path=str(folder)).load().links.shape == (0, 2)


def test_lastfm_has_friends_and_no_feature_that_tells_who_came_first(tmp_path: Path) -> None:
    data = HetRecLastFM(path=str(layouts.write_lastfm(tmp_path / "music"))).load()
    assert data.links.tolist() == [[0, 1], [1, 0]]
    assert data.catalogue.feature_names == ()
    with pytest.raises(FedrecError, match="no public item features"):
        feature_vectors(data.catalogue, 60)


@pytest.mark.parametrize("packed", [False, True])
def test_gowalla_by_hand(tmp_path: Path, packed: bool) -> None:
    data = Gowalla(path=str(layouts.write_gowalla(tmp_path / "places", packed))).load()
    assert sizes(data) == (10, 3, 6)
    tests = [sorted(data.catalogue.ids[device.test].tolist()) for device in data.devices]
    assert tests == [["4", "5"], ["0"], []]
    assert [len(device.validation) for device in data.devices] == [1, 1, 0]
    everything = [sorted(np.concatenate([d.history, d.validation]).tolist()) for d in data.devices]
    assert everything == [[0, 1, 2, 3], [1, 4], [5]]


def test_gowalla_leaves_the_last_out_where_asked(tmp_path: Path) -> None:
    data = Gowalla(path=str(layouts.write_gowalla(tmp_path / "places")), split="leave-last-out").load()
    assert [len(device.test) for device in data.devices] == [1, 1, 0] and "random order" in data.split
    with pytest.raises(FedrecError, match="split is for all users"):
        Gowalla(path=str(tmp_path / "places"), minimum=5).load()


def test_microlens_by_hand(tmp_path: Path) -> None:
    data = MicroLens50K(path=str(layouts.write_microlens(tmp_path / "videos"))).load()
    assert used(data, 0) == ["3", "1", "2"] and used(data, 1) == ["2", "3"]
    assert data.catalogue.feature_names == ("tag:funny",)
    assert data.catalogue.features[:4, 0].tolist() == [1, 0, 1, 1]
    assert data.catalogue.titles[0] == "a dance # Funny # alone"
    assert tags_of("x#B # a## b") == ["a", "b"]


def test_a_path_is_asked_for_and_what_it_must_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match=r"dataset.path is not set: dataset=gowalla reads train.txt or train.txt.gz"):
        Gowalla().load()
    with pytest.raises(FedrecError, match=r"MicroLens-50k_pairs\.tsv"):
        MicroLens50K(path=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("text", "separator", "said"),
    [("\n", " ", "f:1: no items"), ("1\t2 3\n4 5\n", "\t", "f:2: no '\\\\t'"), ("x\n", " ", "f:1: no ' '")],
)
def test_a_wrong_line_of_a_sequence_is_named(text: str, separator: str, said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        read_sequences(text.encode(), "f", separator)


def test_rows_of_a_sequence_know_their_line() -> None:
    table = read_sequences(b"7 1 2\n\n8 3\n", "f")
    assert [table.place(row) for row in range(3)] == ["f:1", "f:1", "f:3"]


def test_links_are_rows_of_known_users() -> None:
    first, second = Tokens(np.array([0, 1, 0]), ("b", "x")), Tokens(np.array([0, 0, 1]), ("a", "b"))
    links, strangers = links_between((first, second), np.array(["a", "b"]))
    assert links.tolist() == [[1, 0]] and strangers == 1


def test_common_words_keep_their_order() -> None:
    assert common_words([["a", "b"], ["b"], ["c", "b", "a"]], 2) == [["a", "b"], ["b"], ["b", "a"]]


def test_an_unordered_catalogue_has_no_features() -> None:
    tokens = Tokens(np.array([0, 1]), ("9", "10"))
    made = unordered(Rows(tokens, tokens, None, None, str))
    assert made.ids.tolist() == ["9", "10"] and made.features.shape == (2, 0) and made.origin == "interactions"


@pytest.mark.parametrize(
    ("kind", "name", "expected", "links"),
    [
        (OnlineRetailII, "online-retail-ii", (273_844, 4_285, 4_006), 0),
        (AmazonVideoGames, "amazon-video-games.zip", (287_107, 31_013, 23_715), 0),
        (FilmTrust, "filmtrust.zip", (35_494, 1_508, 2_071), 1_632),
        (HetRecLastFM, "hetrec2011-lastfm-2k.zip", (92_834, 1_892, 17_632), 25_434),
        (Gowalla, "gowalla", (1_027_370, 29_858, 40_981), 0),
        (MicroLens50K, "microlens-50k.zip", (359_708, 50_000, 19_220), 0),
    ],
)
def test_as_published(kind: type, name: str, expected: tuple[int, int, int], links: int, shared: Shared) -> None:
    data = kind(path=str(shared(name))).load()
    assert (*sizes(data), len(data.links)) == (*expected, links)
    assert np.isfinite(data.catalogue.features).all()
    assert len(data.catalogue.feature_names) == data.catalogue.features.shape[1]
    assert isinstance(pa.array(data.catalogue.titles.tolist()), pa.StringArray)
