"""A user's own CSV, Parquet and RecBole files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrec.data.datasets.csv import Delimited
from fedrec.data.datasets.recbole import RecBole
from fedrec.errors import FedrecError
from tests.support.tiny import interactions_of

CSV = "user,item,time\nann,x,3\nbob,y,1\nann,y,2\n"


def write(folder: Path, text: str, name: str = "shop.csv", encoding: str = "utf-8") -> str:
    (folder / name).write_text(text, encoding=encoding)
    return str(folder / name)


def test_csv_with_the_default_columns(tmp_path: Path) -> None:
    data = Delimited(path=write(tmp_path, CSV)).load()
    assert data.name == "shop"
    assert data.interactions.user_ids.tolist() == ["ann", "bob"]
    assert data.catalogue.ids[data.interactions.item].tolist() == ["y", "x", "y"]
    assert data.catalogue.feature_names == ("position",)
    assert interactions_of(data).value.tolist() == [1, 1, 1]


def test_csv_with_mapped_columns_and_another_separator(tmp_path: Path) -> None:
    path = write(tmp_path, "who;what;when;stars\n1;5;3;4.5\n1;6;4;2\n")
    columns = {"user": "who", "item": "what", "time": "when", "value": "stars"}
    for separator in (";", "semicolon"):
        data = Delimited(path=path, columns=columns, separator=separator).load()
        assert interactions_of(data).value.tolist() == [4.5, 2]
    assert len(Delimited(path=path, columns=columns, separator=";", threshold=4).load().interactions) == 1


def test_csv_without_time_is_in_file_order(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item\n1,b\n1,a\n")
    data = Delimited(path=path, columns={"time": None}).load()
    assert data.catalogue.ids[data.interactions.item].tolist() == ["b", "a"]
    assert "file order" in data.split


def test_wrong_separator_names_the_one_that_fits(tmp_path: Path) -> None:
    path = write(tmp_path, CSV.replace(",", ";"))
    with pytest.raises(FedrecError, match=r"shop\.csv:1: no column 'user'.*columns found: user;item;time") as error:
        Delimited(path=path).load()
    assert "The file looks ';'-separated: dataset.separator=semicolon" in str(error.value)
    with pytest.raises(FedrecError, match=r"dataset\.separator=tab"):
        Delimited(path=write(tmp_path, CSV.replace(",", "\t"))).load()


def test_misnamed_column_gets_the_nearest_and_its_setting(tmp_path: Path) -> None:
    path = write(tmp_path, CSV.replace("item", "items"))
    with pytest.raises(FedrecError, match=r"no column 'item' \(dataset\.columns\.item\).*Did you mean 'items'"):
        Delimited(path=path).load()


def test_file_without_times_or_header_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match=r"no column 'time'.*dataset\.columns\.time=null"):
        Delimited(path=write(tmp_path, "user,item\n1,2\n")).load()
    with pytest.raises(FedrecError, match=r"no column 'user'.*first line looks like data"):
        Delimited(path=write(tmp_path, "1,2,3\n4,5,6\n")).load()
    with pytest.raises(FedrecError, match=r"no column 'user'") as error:
        Delimited(path=write(tmp_path, "who,what,when\n4,5,6\n")).load()
    assert "looks like data" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (",x,3", "shop.csv:5: blank user"),
        ("cy,nan,3", "shop.csv:5: item 'nan'"),
        ("cy,x,soon", "shop.csv:5: time 'soon': unix time, or a date like"),
        ("cy,x", "shop.csv:5: 2 fields; 3 are expected"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(FedrecError) as error:
        Delimited(path=write(tmp_path, f"{CSV}{line}\n")).load()
    assert message in str(error.value)


def test_numeric_ids_must_be_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item,time\n1,a,1\n1.5,b,2\n")
    with pytest.raises(FedrecError, match=r"shop\.csv:3: fractional user '1\.5'"):
        Delimited(path=path).load()


def test_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item,time\n1,caf\xe9,1\n", encoding="latin-1")
    with pytest.raises(FedrecError, match=r"shop\.csv:2: byte 0xe9.*dataset\.encoding=latin-1"):
        Delimited(path=path).load()
    assert Delimited(path=path, encoding="latin-1").load().catalogue.ids.tolist() == ["caf\xe9"]


def test_missing_and_empty_files_and_settings(tmp_path: Path) -> None:
    for source, message in (
        (Delimited(), "dataset.path is not set"),
        (Delimited(path=str(tmp_path / "no.csv")), "no.csv: no such file"),
        (Delimited(path=write(tmp_path, "")), "shop.csv:1: empty file"),
        (Delimited(path=write(tmp_path, CSV, "a.csv"), columns={"usr": "user"}), "Did you mean 'user'?"),
        (Delimited(path=write(tmp_path, CSV, "a.csv"), columns={"user": None}), "must each name a column"),
        (Delimited(path=write(tmp_path, CSV, "a.csv"), separator=""), "dataset.separator is blank"),
    ):
        with pytest.raises(FedrecError) as error:
            source.load()
        assert message in str(error.value)


def test_parquet_is_the_same_data_set_as_csv(tmp_path: Path) -> None:
    table = pa.table({"user": ["ann", "bob", "ann"], "item": ["x", "y", "y"], "time": [3, 1, 2]})
    pq.write_table(table, tmp_path / "shop.parquet")
    parquet, text = (Delimited(path=p).load() for p in (str(tmp_path / "shop.parquet"), write(tmp_path, CSV)))
    assert parquet.population == text.population
    assert parquet.interactions.item.tolist() == text.interactions.item.tolist()


def test_parquet_errors_name_the_row(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    pq.write_table(pa.table({"user": [1.0, float("nan")], "item": [1, 2], "time": [1, 2]}), path)
    with pytest.raises(FedrecError, match=r"shop\.parquet: row 2: user 'nan'"):
        Delimited(path=str(path)).load()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FedrecError, match=r"shop\.parquet: not a complete Parquet file"):
        Delimited(path=str(path)).load()


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\ta\t4\t20\n1\tb\t2\t10\n2\ta\t5\t5\n"


def test_recbole_with_its_item_file(tmp_path: Path) -> None:
    write(tmp_path, INTER, "shop.inter")
    seen = RecBole(path=str(tmp_path)).load()
    assert (seen.name, seen.catalogue.origin) == ("shop", "interactions")
    write(tmp_path, "item_id:token\tmovie_title:token_seq\nb\tBrazil\na\tAlien\nc\tCube\n", "shop.item")
    data = RecBole(path=str(tmp_path / "shop.inter")).load()
    assert data.catalogue.titles.tolist() == ["Brazil", "Alien", "Cube"]
    assert data.catalogue.origin == "item file"
    assert data.interactions.item.tolist() == [0, 1, 1]
    assert interactions_of(data).value.tolist() == [2, 4, 5]


def test_recbole_without_times_and_ratings(tmp_path: Path) -> None:
    data = RecBole(path=write(tmp_path, "user_id:token\titem_id:token\n1\tb\n1\ta\n", "s.inter")).load()
    assert data.interactions.item.tolist() == [1, 0]
    assert "file order" in data.split


def test_recbole_errors(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match=r"one \.inter file is expected; found none"):
        RecBole(path=str(tmp_path)).load()
    path = write(tmp_path, INTER.replace("item_id", "items"), "shop.inter")
    with pytest.raises(FedrecError, match=r"shop\.inter:1: no column 'item_id' \(dataset\.columns\.item\)"):
        RecBole(path=path).load()
    with pytest.raises(FedrecError, match=r"shop\.inter:1: no column 'when'"):
        RecBole(path=write(tmp_path, INTER, "shop.inter"), columns={"time": "when"}).load()
