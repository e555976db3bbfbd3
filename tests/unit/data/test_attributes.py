"""Titles and features of items from further files, and what of these files is no feature."""

from pathlib import Path

import pytest

from fedrec.data.datasets.csv import Delimited
from fedrec.data.datasets.recbole import RecBole
from fedrec.errors import FedrecError

LOG = "user,item,time\n" + "".join(f"u{n % 3},{item},{n}\n" for n, item in enumerate("abcabcabc"))
ITEMS = """id;name;price;genre;tags;sku
a;Alpha;1.5;Drama;x|y;s1
b;Beta;;Comedy;y;s2
c;;2.5;Drama;;s3
d;Delta;9;Comedy;x;s4
"""


def source(folder: Path, **items: object) -> Delimited:
    (folder / "log.csv").write_text(LOG)
    (folder / "items.csv").write_text(ITEMS)
    given = {"path": str(folder / "items.csv"), "separator": "semicolon", "columns": {"id": "id", "title": "name"}}
    return Delimited(path=str(folder / "log.csv"), items={**given, **items})


def test_a_file_of_items_gives_titles_and_features_of_every_kind(tmp_path: Path) -> None:
    data = source(tmp_path).load()
    catalogue = data.catalogue
    assert catalogue.ids.tolist() == list("abcd") and catalogue.origin == "item file"
    assert catalogue.titles.tolist() == ["Alpha", "Beta", "c", "Delta"]
    assert catalogue.feature_names == ("price", "genre:Comedy", "genre:Drama", "tags:x", "tags:y")
    assert catalogue.features.tolist() == [
        [1.5, 0, 1, 1, 1],
        [2.5, 1, 0, 0, 1],  # the median price
        [2.5, 0, 1, 0, 0],
        [9, 1, 0, 1, 0],
    ]
    assert "sku (hardly any two items share a value)" in "\n".join(one.text for one in data.findings)


def test_features_are_those_asked_for(tmp_path: Path) -> None:
    data = source(tmp_path, features=["genre"], columns={"id": "0", "title": "1"}).load()
    assert data.catalogue.feature_names == ("genre:Comedy", "genre:Drama")
    assert "price (not asked for)" in "\n".join(one.text for one in data.findings)
    with pytest.raises(FedrecError, match=r"items\.csv.*column 'sku' can be no feature: hardly any two"):
        source(tmp_path, features=["sku"]).load()
    with pytest.raises(FedrecError, match=r"no column 'genres'.*Did you mean 'genre'"):
        source(tmp_path, features=["genres"]).load()


def test_an_item_that_the_file_of_items_lacks_is_named_by_line(tmp_path: Path) -> None:
    made = source(tmp_path)
    (tmp_path / "log.csv").write_text(f"{LOG}u1,z,99\n")
    with pytest.raises(FedrecError, match=r"log\.csv:11: item 'z' is not in the item file"):
        made.load()


def recbole(folder: Path, items: str, users: str = "") -> RecBole:
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (folder / "x.inter").write_text(header + "".join(f"u{n % 2}\t{n % 3}\t{n}\n" for n in range(6)))
    (folder / "x.item").write_text(items)
    if users:
        (folder / "x.user").write_text(users)
    return RecBole(path=str(folder))


def test_recbole_names_the_types_of_its_features(tmp_path: Path) -> None:
    items = (
        "item_id:token\ttitle:token_seq\tyear:token\tclass:token_seq\tshelf:token\tprice:float\tvector:float_seq\tcode:token\n"
        "0\tA film\t1990\tDrama Comedy\t4\t2\t0.5 1\tk0\n"
        "1\tAnother\t1995\tDrama\t4\t3\t2 3\tk1\n"
        "2\tA third\t2001\tComedy\t7\t\t\tk2\n"
    )
    data = recbole(tmp_path, items, "user_id:token\tage:float\nu0\t30\nu1\t40\n").load()
    names = ("year", "class:Comedy", "class:Drama", "shelf:4", "price", "vector[0]", "vector[1]")
    assert data.catalogue.feature_names == names and data.catalogue.titles.tolist() == ["A film", "Another", "A third"]
    assert data.catalogue.features[:, :5].tolist() == [[1990, 1, 1, 1, 2], [1995, 0, 1, 1, 3], [2001, 1, 0, 0, 2.5]]
    assert data.catalogue.features[:, 5:].tolist() == [[0.5, 1], [2, 3], [0, 0]]
    told = "\n".join(one.text for one in data.findings)
    assert (
        "code (hardly any two" in told
        and "x.user describes 2 of 2 users (age): no model takes attributes of users" in told
    )


def test_an_inter_file_separated_by_blanks_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token item_id:token\nu0 1\n")
    with pytest.raises(FedrecError, match=r"x\.inter:1: .*looks separated by ' '.*dataset\.separator=space"):
        RecBole(path=str(tmp_path / "x.inter")).load()


@pytest.mark.parametrize(("mark", "name"), [(",", "comma"), (" ", "space"), ("|", "pipe")])
def test_recbole_files_of_another_separator_are_told_and_then_read(mark: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    rows = [("user_id:token", "item_id:token", "timestamp:float"), *((f"u{n % 3}", f"i{n}", n) for n in range(12))]
    path.write_text("".join(f"{mark.join(map(str, row))}\n" for row in rows))
    with pytest.raises(FedrecError, match=rf"dataset\.separator={name}"):
        RecBole(path=str(path)).load()
    assert len(RecBole(path=str(path), separator=name).load().interactions) == 12


def test_recbole_files_are_read_as_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    path.write_bytes(f"{head}\né\tNA\t4,5\t1000\né\ty\t3\t2000\n\tz\t3\t3000\nb\ty\t2,5\t1000\n".encode("latin-1"))
    data = RecBole(path=str(path), encoding="latin-1", decimal="comma", ids="text", missing="drop", time_unit="ms")
    loaded = data.load()
    assert dict(loaded.repairs) == {"rows without a user, item, time or value": 1}
    assert loaded.interactions.user_ids.tolist() == ["b", "é"] and "NA" in loaded.catalogue.ids.tolist()
    assert sorted(loaded.devices.value.tolist()) == [2.5, 3, 4.5] and loaded.clock.per_second == 1000
    with pytest.raises(FedrecError, match=r"dataset\.missing=dropp: no such choice"):
        RecBole(path=str(path), missing="dropp").load()


def test_a_file_of_users_that_is_wrong_is_refused(tmp_path: Path) -> None:
    items = "item_id:token\tyear:token\n0\t1990\n1\t1995\n2\t2001\n"
    with pytest.raises(FedrecError, match=r"x\.user:3: user_id 'u0' stands twice"):
        recbole(tmp_path, items, "user_id:token\tage:float\nu0\t30\nu0\t40\n").load()
