"""What `fedrec data check` says of a data set, in lines and as JSON, and where it ends with a status."""

import json
import shlex
from pathlib import Path

import pytest

from fedrec.cli.main import main
from fedrec.report.data_check import kind_of


def log(folder: Path, body: str, header: str = "customer_id,sku,order_date,note", name: str = "my log.csv") -> str:
    path = folder / name
    path.write_text(f"{header}\n{body}")
    return str(path)


def purchases(users: int = 12) -> str:
    rows = [
        (f"c{u}", f"s{u * 7 % 11 + n * n % 13}", f"2025-01-{n + 1:02}T08:00:00", "x")
        for u in range(users)
        for n in range(8)
    ]
    return "".join(f"{','.join(row)}\n" for row in rows)


def test_a_file_is_checked_as_a_person_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log(tmp_path, purchases())
    main(["data", "check", path])
    said = capsys.readouterr()
    lines = {line.partition(":")[0]: line.partition(": ")[2] for line in said.out.splitlines()}
    assert "user = customer_id (by its name), item = sku (by its name), time = order_date (by its name)" in said.err
    assert "item = sku (by its name)" in said.out and "not read: note" in said.out
    assert "users are text (c0, c1, c10, ...)" in lines["ids"]
    assert lines["times"].startswith("2025-01-01 08:00:00 to 2025-01-08 08:00:00 (ISO 8601")
    assert "median" in lines["histories"] and "12 of 12" not in lines["held out"]
    assert lines["repaired"].startswith("repeats of a pair (first kept)") and "rows of a user" in lines["repeats"]
    assert lines["population"].endswith("nothing spent")
    assert "privacy=" in lines[next(key for key in lines if key.startswith("model=") and "ease" in key)]
    command = shlex.split(lines["next"])
    assert (
        command[:2] == ["fedrec", "simulate"]
        and "dataset.columns.user" in lines["next"]
        and command[-1] == "privacy=user"
    )
    assert any(path in part for part in command)


def test_json_holds_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", log(tmp_path, purchases()), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["read"]["columns"] == {"user": "customer_id", "item": "sku", "time": "order_date"}
    assert found["read"]["unread"] == ["note"] and found["read"]["why"]["user"] == "by its name"
    assert found["facts"]["tested"] == found["held_out"]["test"] == 12 and found["users"] == 12
    assert found["times"]["last"] == "2025-01-08 08:00:00" and found["problem"] is None
    assert {"user", "none"} <= set(found["models"]["ease"]) and "interaction" not in found["models"]["ease"]
    assert found["models"].keys() | found["refused"].keys() >= {"ease", "mf", "sasrec", "popularity"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("".join(f"u{n},i{n % 4},{n},x\n" for n in range(9)), "none of the 9 users to evaluate has an item held out"),
        ("".join(f"u,i{n},{n},x\n" for n in range(6)), "one user: what others did is learned from"),
    ],
)
def test_what_could_not_be_measured_is_refused_before_anything_is_charged(
    rows: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    path = log(tmp_path, rows)
    for command in (["data", "check", path], ["simulate", "dataset=csv", f"dataset.path='{path}'", "model=popularity"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, *(["privacy=user", f"output={tmp_path}"] if command[0] == "simulate" else [])])
        assert ended.value.code == 2 and said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.sqlite"))


def test_what_was_spent_on_these_people_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    path = log(tmp_path, purchases(), name="log.csv")
    quick = ["model=popularity", "privacy=user", "privacy.epsilon=3", "evaluation.baselines=[]", f"output={tmp_path}"]
    main(["simulate", "dataset=csv", f"dataset.path={path}", *quick])
    capsys.readouterr()
    main(["data", "check", path])
    spent = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("population: "))
    assert "nothing spent" not in spent and "epsilon" in spent


def test_ids_are_numbers_or_text() -> None:
    import numpy as np

    assert kind_of(np.array(["1", "-2"])) == "whole numbers (1, -2)"
    assert kind_of(np.array(["1", "2", "3", "a"])) == "text (1, 2, 3, ...)"
