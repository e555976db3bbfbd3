"""kill -9 at any moment, then --resume: bit-identical in test mode, and never a refund elsewhere."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.cli.main import main
from fedrec.errors import FedrecError
from fedrec.federated import loop
from fedrec.federated.state import RoundReport, RunContext, ServerState
from tests.support.tiny import SMALL

ROOT = Path(__file__).parents[2]
RUN = [*SMALL, "rounds=8", "evaluation.every=2", "evaluation.users=20", "evaluation.baselines=[popularity]"]


SCENES: list[tuple[str, int, int, list[str]]] = [
    ("no privacy", 4, 1, ["model=mf", "privacy=none"]),
    ("seeded interaction", 4, 1, ["model=mf", "model.dim=4", "privacy=interaction", "privacy.randomness=seeded"]),
    (
        "seeded banded",
        4,
        1,
        ["model=mf", "model.dim=4", "privacy=banded", "privacy.randomness=seeded", "cohort.size=10"],
    ),
    ("user", 4, 2, ["model=mf", "privacy=user", "cohort.size=20", "rounds=12"]),
    ("banded", 4, 3, ["model=mf", "privacy=banded", "cohort.size=10", "rounds=40"]),
]


def killed(output: Path, scenes: list[tuple[str, int, int, list[str]]]) -> Path:
    """Play scenes whole and with kills, and return their folder; every scene must have been hit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = json.dumps([[name, kills, seed, [*RUN, *more]] for name, kills, seed, more in scenes])
    command = [sys.executable, str(ROOT / "tests" / "support" / "kill_loop.py"), str(output), told]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(found[name] > 0 for name, *_ in scenes), found
    return output


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenes, in one process: most of what a scene takes are its imports."""
    return killed(tmp_path_factory.mktemp("killed"), SCENES)


def check_identical(scene: Path) -> None:
    whole, again = scene / "whole" / "run", scene / "kills" / "run"
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert (whole / "private" / "values.f32").stat().st_size > 0
    assert (whole / "private" / "values.f32").read_bytes() == (again / "private" / "values.f32").read_bytes()
    kept = [{path.name: path.read_bytes() for path in (run / "releases").iterdir()} for run in (whole, again)]
    assert kept[0] == kept[1] and len(kept[0]) in (0, len((whole / "rounds.jsonl").read_text().splitlines()))
    lines = [[json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()] for run in (whole, again)]
    for one, other in zip(*lines, strict=True):
        timed = {"seconds"}
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    results = [json.loads((run / "metrics.json").read_text()) for run in (whole, again)]
    assert results[0]["test"] == results[1]["test"] and results[0]["validation"] == results[1]["validation"]


@pytest.mark.parametrize("scene", [name for name, *_ in SCENES[:3]])
def test_a_killed_run_ends_bit_identical(scenes: Path, scene: str) -> None:
    check_identical(scenes / scene)


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["none", "user", "user_adaptive", "user_local", "interaction"])
def test_many_kills_end_bit_identical(tmp_path: Path, privacy: str) -> None:
    seeded = [] if privacy == "none" else ["privacy.randomness=seeded"]
    settings = ["model=neumf", "model.dim=4", f"privacy={privacy}", *seeded, "rounds=30"]
    check_identical(killed(tmp_path, [("one", 25, 1, settings)]) / "one")


def test_a_killed_private_run_stays_charged_and_within_its_budget(scenes: Path) -> None:
    """Every reserved round stays spent; the run ends early rather than pass its epsilon."""
    scene = scenes / "user" / "kills"
    (file,) = (scene / "state").rglob("*.sqlite")
    with sqlite3.connect(file) as ledger:
        ((reserved,),) = ledger.execute("select count(*) from entries where kind = 'reserve'")
    rows = json.loads((scene / "run" / "privacy_card.json").read_text())["ledger"]["rows"]
    lines = (scene / "run" / "rounds.jsonl").read_text().splitlines()
    assert len(rows) == reserved and len(lines) <= reserved <= 12
    values = json.loads((scene / "run" / "metrics.json").read_text())
    assert 0 < values["privacy"]["epsilon"] <= 8.0 + 1e-6


def test_a_statistic_that_lost_its_second_round_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted between the counts and the pairs, the charge of the pairs is gone: the verdict must not hide it."""
    play = loop.run_round

    def stopped(session: RunContext, at: ServerState, number: int) -> tuple[ServerState, RoundReport]:
        if number == 2:
            raise KeyboardInterrupt
        return play(session, at, number)

    monkeypatch.setattr(loop, "run_round", stopped)
    with pytest.raises(SystemExit):
        main(
            [
                "simulate",
                *SMALL,
                "model=order",
                "privacy=user",
                "evaluation.baselines=[]",
                f"output={tmp_path}",
                "name=one",
            ]
        )
    monkeypatch.setattr(loop, "run_round", play)
    capsys.readouterr()
    main(["simulate", "--resume", str(tmp_path / "one")])
    told = capsys.readouterr()
    assert "ended after 2 of 4 rounds" in told.out and "ends after round 2 of 4" in told.err
    assert "ended after 2 of 4 rounds" in (tmp_path / "one" / "report.html").read_text()


def test_a_killed_banded_run_leaves_lost_rounds_out(scenes: Path) -> None:
    """Invariant P21: no row of the matrix is noised twice, and devices keep their turns."""
    run = scenes / "banded" / "kills" / "run"
    rows = json.loads((run / "privacy_card.json").read_text())["ledger"]["rows"]
    numbers = [row["round"] for row in rows]
    assert numbers == sorted(set(numbers))  # each charged once, whatever became of it
    released = [json.loads(line)["round"] for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert released == sorted(set(released)) and set(released) <= set(numbers)
    assert {row["round"] for row in rows if row["status"] == "committed"} <= set(released)
    values = json.loads((run / "metrics.json").read_text())
    assert 0 < values["privacy"]["epsilon"] <= 8.0


def test_a_run_does_not_go_on_without_its_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fresh ledger would have nothing spent: a deleted or moved one is refused, not believed."""
    main(["simulate", *RUN, "rounds=2", "evaluation.baselines=[]", f"output={tmp_path}", "name=one"])
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "elsewhere"))
    with pytest.raises(SystemExit):
        main(["simulate", "--resume", str(tmp_path / "one")])
    assert "does not hold what this run has spent" in capsys.readouterr().err


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [
        *SMALL,
        "rounds=2",
        "evaluation.baselines=[private_popularity,no_privacy]",
        f"output={tmp_path}",
        "name=one",
    ]
    main(["simulate", *quick, "--json"])
    before = json.loads(capsys.readouterr().out)
    main(["simulate", *quick, "privacy.epsilon=0.5", "seed=3", "overwrite=true", "--json"])
    after = json.loads(capsys.readouterr().out)
    for name in ("private_popularity", "no_privacy"):
        assert before["baselines"][name] != after["baselines"][name], name
    twin = tmp_path / "one" / "baselines" / "private_popularity" / "rounds.jsonl"
    assert json.loads(twin.read_text().splitlines()[-1])["epsilon"] < 0.51


def test_resuming_needs_a_run_and_its_own_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--resume", str(tmp_path / "nothing")], "does not exist"),
        (["--resume", str(tmp_path), "rounds=3"], "leave out rounds=3"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["simulate", *arguments])
        assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_run_is_not_overwritten_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [*SMALL, "privacy=none", "model=popularity", "evaluation.baselines=[]", f"output={tmp_path}", "name=one"]
    main(["simulate", *quick])
    with pytest.raises(SystemExit):
        main(["simulate", *quick])
    said = capsys.readouterr().err
    assert "--resume" in said and "overwrite=true" in said
    main(["simulate", *quick, "overwrite=true"])
    main(["simulate", "--resume", str(tmp_path / "one")])
    assert "NDCG@10" in capsys.readouterr().out
    assert issubclass(FedrecError, ValueError)
