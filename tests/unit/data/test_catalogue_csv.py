"""The public list of items and the files of devices: what is written is read, and every mistake has its line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.cli.data import hand_out
from fedrec.data.catalogue import Catalogue
from fedrec.data.io.csv_files import COLUMNS, mapping, read_device_file, read_items, write_items
from fedrec.errors import FedrecError
from tests.support.tiny import interactions_of, small

NAMES = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=8).map(str.strip).filter(bool)
VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False)


def written(folder: Path, text: str) -> Path:
    (folder / "items.csv").write_text(text, encoding="utf-8")
    return folder / "items.csv"


@given(st.data(), st.lists(NAMES, min_size=1, max_size=5, unique=True), st.integers(1, 3))
def test_a_catalogue_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, ids: list[str], columns: int
) -> None:
    titles = data.draw(st.lists(NAMES, min_size=len(ids), max_size=len(ids)))
    rows = st.lists(VALUES, min_size=columns, max_size=columns)
    features = np.array(data.draw(st.lists(rows, min_size=len(ids), max_size=len(ids))), np.float32)
    names = tuple(f"genre:{n}" for n in range(columns))
    path = tmp_path_factory.mktemp("items") / "items.csv"
    write_items(path, Catalogue(np.array(ids), np.array(titles), features, names, "item file"))
    found = read_items(path)
    assert found.ids.tolist() == ids and found.titles.tolist() == titles and found.feature_names == names
    np.testing.assert_array_equal(found.features, features)


def test_an_item_without_a_title_has_its_id_and_one_without_features_its_place(tmp_path: Path) -> None:
    found = read_items(written(tmp_path, "\ufeffid,title\na, \n\n b ,The B\n"))
    assert found.ids.tolist() == ["a", "b"] and found.titles.tolist() == ["a", "The B"]
    assert found.feature_names == ("position",) and found.features.shape == (2, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "items.csv:1: the first line must be id,title and then the names of features, rows below it"),
        ("id,title\n", "items.csv:1: the first line must be id,title and then the names of features, rows below it"),
        ("title,id\nx,y\n", "items.csv:1: the first line must be id,title"),
        ("id,title,year\na,A,1\n\nb,B\n", "items.csv:4: 3 fields expected, the first an id"),
        ("id,title\na,A\n ,B\n", "items.csv:3: 2 fields expected, the first an id"),
        ("id,title\na,A\n\na ,B\n", "items.csv:4: item 'a' stands twice: each item is listed once"),
        ("id,title,year\na,A,1\nb,B,new\n", "items.csv:3: year 'new': a finite number is expected"),
        ("id,title,year\na,A,nan\n", "items.csv:2: year 'nan': a finite number is expected"),
        ("id,title,year\na,A,1e39\n", "items.csv:2: year '1e39': a finite number is expected"),
        ('id,title\na,"A\nB\n', "items.csv: not a CSV file in UTF-8 ("),
    ],
)
def test_a_mistake_in_the_list_of_items_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FedrecError) as error:
        read_items(written(tmp_path, text))
    assert str(error.value).startswith(f"{tmp_path}/{said}")


def test_a_file_in_another_encoding_and_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes(b"id,title\na,\xe9t\xe9\n")
    for read in (read_items, read_device_file):
        with pytest.raises(FedrecError, match=r"items\.csv: not a CSV file in UTF-8 \(.*0xe9"):
            read(tmp_path / "items.csv")
        with pytest.raises(FedrecError, match=r"gone\.csv: no such file"):
            read(tmp_path / "gone.csv")


def test_a_device_file_in_words_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, "film,when,stars,more\na,5,2.5,x\n\nb,4,1,y\n")
    rows = read_device_file(path, mapping("item=film, time=when,value=stars"))
    assert [(row.item, row.time, row.value, row.kind) for row in rows] == [
        ("a", 5.0, 2.5, "event"),
        ("b", 4.0, 1.0, "event"),
    ]
    assert mapping(None) == mapping("") == {}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("film=a", "--columns film=a: NAME=COLUMN,... is expected."),
        ("itm=film", "Did you mean 'item'"),
        ("item=", "--columns item=: NAME=COLUMN,... is expected."),
        ("item", "--columns item: NAME=COLUMN,... is expected."),
    ],
)
def test_columns_that_make_no_sense_are_named(columns: str, said: str) -> None:
    with pytest.raises(FedrecError) as error:
        mapping(columns)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("item,tme\na,1\n", {}, ":1: column 'tme' is not known. Did you mean 'time'?"),
        ("", {}, ":1: no column 'item' among none; --columns item=NAME names it"),
        ("film,time\na,1\n", {}, ":1: no column 'item' among film, time; --columns item=NAME names it"),
        ("film,time\na,1\n", {"item": "films"}, ":1: no column 'films'. Did you mean 'film'?"),
        ("item,time\na\n", {}, ":2: 1 fields where the first line names 2"),
        ("item,time\n ,1\n", {}, ":2: blank item: give every row an id"),
        ("item,time\na,1\nb,soon\n", {}, ":3: time 'soon': a finite number is expected (times as unix time)"),
        ("item,value\na,inf\n", {}, ":2: value 'inf': a finite number is expected (times as unix time)"),
    ],
)
def test_a_mistake_in_a_device_file_is_named_with_its_line(
    tmp_path: Path, text: str, columns: dict[str, str], said: str
) -> None:
    with pytest.raises(FedrecError) as error:
        read_device_file(written(tmp_path, text), columns)
    assert str(error.value) == f"{tmp_path}/items.csv{said}"


def test_what_is_handed_out_is_what_the_users_did(tmp_path: Path) -> None:
    dataset = small()[1]
    said, table = hand_out(dataset, 10, tmp_path / "files"), interactions_of(dataset)
    assert len(said) == 11 and said[0].endswith(f"items.csv: {len(dataset.catalogue):,} items, public")
    assert read_items(tmp_path / "files" / "items.csv").ids.tolist() == dataset.catalogue.ids.tolist()
    for user in range(10):
        rows = read_device_file(tmp_path / "files" / f"{user + 1:02d}.csv")
        mine = table.user == user
        assert [row.item for row in rows] == dataset.catalogue.ids[table.item[mine]].tolist()
        assert [row.time for row in rows] == table.time[mine].tolist()
        assert [row.value for row in rows] == pytest.approx(table.value[mine].tolist())
    assert set(COLUMNS) == set((tmp_path / "files" / "01.csv").read_text().splitlines()[0].split(","))


@pytest.mark.parametrize("devices", [0, 41])
def test_more_devices_than_users_are_not_handed_out(tmp_path: Path, devices: int) -> None:
    with pytest.raises(FedrecError, match=f"--devices {devices}: synthetic has 40 users"):
        hand_out(small()[1], devices, tmp_path)
