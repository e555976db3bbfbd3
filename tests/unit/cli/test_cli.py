"""The command, end to end on small data: what it prints, writes and refuses."""

import json
import stat
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedrec.cli.main import main
from tests.support.tiny import SMALL

QUICK = [*SMALL, "rounds=2", "evaluation.users=20"]


@pytest.fixture
def finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, dict, str]:
    main(
        [
            "simulate",
            *QUICK,
            f"output={tmp_path}",
            "name=one",
            "evaluation.baselines=[popularity,private_popularity,no_privacy]",
        ]
    )
    folder = tmp_path / "one"
    return folder, json.loads((folder / "metrics.json").read_text()), capsys.readouterr().out


def test_the_run_folder_holds_what_the_design_promises(finished: tuple[Path, dict, str]) -> None:
    folder, values, printed = finished
    for name in (
        "config.yaml",
        "rounds.jsonl",
        "metrics.json",
        "privacy_card.json",
        "model.safetensors",
        "catalogue.parquet",
    ):
        assert (folder / name).stat().st_size > 0, name
    for path in [folder / "exact", folder / "private", *(folder / "exact").rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert load_file(folder / "model.safetensors").keys() == {"item_bias.weight"}
    assert str(folder.resolve()) in printed and "epsilon" in printed and "add-remove" in printed and "delta" in printed
    assert values["rounds"] == 2


def test_metrics_follow_their_contract(finished: tuple[Path, dict, str]) -> None:
    values = finished[1]
    assert {"name", "users", "items", "interactions"} <= values["dataset"].keys()
    assert (values["model"], values["algorithm"], values["mechanism"]) == ("content", "fedavg", "interaction")
    assert values["engine"] == "kernel" and values["seed"] == 0
    for kind in ("full", "sampled"):
        assert {f"{m}@{k}" for m in ("hr", "ndcg", "mrr") for k in (5, 10, 20)} <= values["test"][kind].keys()
        low, high = values["test"][kind]["hr@10_ci"]
        assert 0 <= low <= values["test"][kind]["hr@10"] <= high <= 1
    assert values["test"]["sampled"]["negatives"] == 99
    assert {"popularity", "private_popularity", "no_privacy"} == values["baselines"].keys()
    assert all("ndcg@10" in found["full"] for found in values["baselines"].values())
    privacy = values["privacy"]
    assert (privacy["unit"], privacy["neighbouring"], privacy["trust"]) == ("interaction", "add-remove", "device")
    assert 7 < privacy["epsilon"] <= 8 and 0 < privacy["delta"] <= 1e-5
    assert values["devices_per_second"] > 0 and {"train", "evaluate", "total"} == values["seconds"].keys()


def test_public_lines_hold_nothing_exact(finished: tuple[Path, dict, str]) -> None:
    """Under a mechanism, loss, validation and who answered lie in exact/ alone (invariant P17)."""
    folder = finished[0]
    public = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    exact = [json.loads(line) for line in (folder / "exact" / "rounds.jsonl").read_text().splitlines()]
    keys = (
        "round",
        "cohort",
        "answered",
        "rejected",
        "loss",
        "validation",
        "epsilon",
        "seconds",
        "bytes_down",
        "bytes_up",
    )
    assert len(public) == 2 and all(set(keys) <= line.keys() for line in public)
    assert all(line[key] is None for line in public for key in ("answered", "loss", "validation"))
    assert all(line["answered"] == 40 and line["loss"] > 0 and "exact" in line["label"] for line in exact)
    assert public[0]["epsilon"] < public[1]["epsilon"] <= 8


def test_no_privacy_has_no_epsilon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["simulate", *QUICK, "privacy=none", "model=mf", f"output={tmp_path}", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["privacy"] == {
        "unit": "none",
        "neighbouring": "none",
        "trust": "none",
        "epsilon": None,
        "delta": None,
    }
    assert values["baselines"]["no_privacy"] == {} and values["baselines"]["popularity"]["full"]


def test_a_seeded_mechanism_claims_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "simulate",
            *QUICK,
            "privacy=user",
            "privacy.randomness=seeded",
            "evaluation.baselines=[]",
            f"output={tmp_path}",
            "--json",
        ]
    )
    values = json.loads(capsys.readouterr().out)
    assert values["privacy"]["epsilon"] is None and values["privacy"]["unit"] == "none"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate", "privacy.epsilon=-1"], "privacy.epsilon=-1"),
        (["simulate", "rounds=abc"], "rounds=abc"),
        (["simulate", "epsilon=1"], "epsilon does not exist. Did you mean 'privacy.epsilon'"),
        (["simulate", "dataset=csv", "dataset.path=/nowhere.csv"], "/nowhere.csv"),
        (["simulate", "name=../escape"], "name=../escape"),
        (["data", "check", "ml-100k", "dataset.path=/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and "Traceback" not in error


def test_a_csv_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.csv"
    lines = [f"u{u},item {(u * 7 + n * n) % 30},{n}" for u in range(25) for n in range(8)]
    path.write_text("who,what,when\n" + "\n".join(lines) + "\n")
    columns = ["dataset.columns.user=who", "dataset.columns.item=what", "dataset.columns.time=when"]
    main(
        [
            "simulate",
            "dataset=csv",
            f"dataset.path={path}",
            *columns,
            "model=ease",
            "privacy=none",
            f"output={tmp_path}",
            "--json",
        ]
    )
    values = json.loads(capsys.readouterr().out)
    assert values["dataset"]["users"] == 25 and values["dataset"]["interactions"] == 200 and values["refit"]


def test_ratings_are_predicted_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Users agree on which items are good: MSE learns it, and RMSE beats the spread of the ratings."""
    path = tmp_path / "ratings.csv"
    rated = [(u, (u * 7 + n) % 20, n) for u in range(30) for n in range(10)]
    path.write_text("user,item,time,stars\n" + "".join(f"u{u},i{i},{n},{1 + 4 * (i % 2)}\n" for u, i, n in rated))
    data = ["dataset=csv", f"dataset.path={path}", "dataset.columns.value=stars", f"output={tmp_path}", "privacy=none"]
    settings = ["model=mf", "model.loss=mse", "model.offset=3", "rounds=60"]
    main(["simulate", *data, *settings, "evaluation.baselines=[]", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert 0 < values["test"]["rmse"] < 1.7  # always saying 3 would give 2


def test_data_is_listed_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("ml-latest-small", "ml-100k", "ml-1m", "hetrec2011-lastfm-2k"))
    main(["data", "check", "ml-latest-small"])
    checked = capsys.readouterr().out
    assert "671" in checked and "100,004" in checked.replace("100004", "100,004")


def test_planted_ids_stay_out_of_what_is_public(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user's id is in no public file and in no line on the screen (invariant I12)."""
    path = tmp_path / "log.csv"
    lines = [f"canary-user-{u},item {(u * 7 + n * n) % 30},{n}" for u in range(25) for n in range(8)]
    path.write_text("user,item,time\n" + "\n".join(lines) + "\n")
    main(["simulate", "dataset=csv", f"dataset.path={path}", f"output={tmp_path}/runs", "name=one", "rounds=2"])
    printed = capsys.readouterr()
    assert "canary-user" not in printed.out + printed.err
    public = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert len(public) > 8 and not [p for p in public if b"canary-user" in p.read_bytes()]
