"""A study end to end on small data, and what it makes of what its trials left."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from fedrec.cli import study as commands
from fedrec.errors import FedrecError
from fedrec.federated import loop
from fedrec.privacy.accounting.composition import compose, compute_epsilon
from fedrec.privacy.ledger.account import composition_from_json
from fedrec.storage.run_folder import RunFolder
from fedrec.study import runner, worker
from fedrec.study.plan import Study, of
from fedrec.study.plot import bars, spread
from fedrec.study.results import collect, costs, over_seeds, read_spent
from fedrec.study.runner import StudyProgress, begin, carry_out, duration, list_tasks, resumed, write
from tests.support.tiny import SMALL

ROOT = Path(__file__).parents[3]
NODE: dict[str, Any] = {
    "name": "toy",
    "title": "Toy",
    "overrides": [*SMALL, "privacy=user", "evaluation.users=20"],
    "methods": {"ease": ["model=ease"], "popularity": ["model=popularity"]},
    "vary": "privacy.epsilon",
    "values": [2, 8],
    "label": "epsilon (unit user)",
    "without": ["privacy=none"],
    "seeds": [0, 1],
    "references": ["popularity", "local"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose trials were run in this process."""
    folder = tmp_path_factory.mktemp("study") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_STATE", str(folder.parent / "state"))
        study = of(NODE, "toy")
        begin(study, folder)
        for order in list_tasks(study, folder):
            run = RunFolder(Path(order["folder"]))
            if order["kind"] == "trial":
                worker.trial(run, order["overrides"], io.StringIO())
            else:
                worker.references(run, order["overrides"], order["names"], io.StringIO())
        write(study, folder, {}, True, "fedrec study toy")
    return folder


def test_nothing_is_left_to_do(finished: Path) -> None:
    assert list_tasks(resumed(finished), finished) == []


def test_the_table_has_a_line_for_everything(finished: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((finished / "table.csv").read_text())))
    assert [(row["method"], row["kind"], row["privacy.epsilon"]) for row in rows] == [
        ("ease", "without", ""),
        ("popularity", "without", ""),
        ("ease", "trial", "2.0"),
        ("popularity", "trial", "2.0"),
        ("ease", "trial", "8.0"),
        ("popularity", "trial", "8.0"),
        ("popularity", "reference", ""),
        ("local", "reference", ""),
    ]
    assert all(float(row["delta"]) == 1e-5 and row["unit"] == "user" for row in rows if row["kind"] == "trial")
    assert float(rows[4]["epsilon"]) == pytest.approx(8, abs=0.01)
    popular, pooled = rows[1], rows[6]
    assert float(popular["full_ndcg@10"]) == pytest.approx(float(pooled["full_ndcg@10"]), abs=0.02)
    text = (finished / "table.md").read_text()
    assert "| NDCG@10, full ranking | no privacy | privacy.epsilon=2 | privacy.epsilon=8 |\n|---|---|---|---|\n" in text
    assert "With no privacy, ease reaches NDCG@10" in text and " of the best reference" in text
    for said in ("synthetic users", "excludes selection", "Made by `fedrec study toy`", "a device alone", "epsilon"):
        assert said in text


def test_means_and_intervals_are_those_of_the_trials(finished: Path) -> None:
    line = collect(resumed(finished), finished).of("ease")[-1]
    figures = [
        json.loads((finished / "trials" / f"ease-8-seed{seed}" / "metrics.json").read_text())["test"]["full"]["ndcg@10"]
        for seed in (0, 1)
    ]
    one = line.measured["full_ndcg@10"]
    assert one.by_seed == pytest.approx(figures) and one.mean == pytest.approx(np.mean(figures))
    assert one.seeds is not None and one.seeds.high - one.seeds.mean == pytest.approx(
        12.706 * abs(figures[0] - figures[1]) / 2, rel=1e-3
    )
    assert one.users.low <= one.mean <= one.users.high


def test_all_trials_on_the_same_users_add_up(finished: Path) -> None:
    study = resumed(finished)
    spent = read_spent(finished / "trials" / trial.name for trial in study.trials())
    (cost,) = costs(spent)
    assert cost.trials == 8 and (cost.unit, cost.neighbouring, cost.trust) == ("user", "add-remove", "server")
    single = [compute_epsilon(composition_from_json(one["total"]), one["delta"]) for one in spent]
    assert max(single) < cost.epsilon < sum(single)
    assert cost.epsilon == pytest.approx(
        compute_epsilon(compose((composition_from_json(s["total"]), 1) for s in spent), 1e-5)
    )
    ledger = next((finished.parent / "state").rglob("*.sqlite"))
    assert ledger.exists() and cost.population in ledger.name


def test_the_picture_says_everything_that_is_needed_to_read_it(finished: Path) -> None:
    assert (finished / "picture.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    root = ElementTree.parse(finished / "picture.svg").getroot()
    assert root.tag.endswith("svg")
    comments = (finished / "picture.svg").read_text()
    for said in (
        "Toy",
        "epsilon (unit user)",
        "no privacy",
        "a device alone",
        "excludes selection",
        "delta 1e-05",
    ):
        assert said in comments
    assert "http://www.w3.org" in comments and "<image" not in comments


def test_the_bare_picture_leaves_title_and_caption_to_the_text_around_it(finished: Path) -> None:
    figure, said = (finished / "figure.svg").read_text(), (finished / "caption.txt").read_text()
    ElementTree.fromstring(figure)
    assert "Toy" not in figure and "excludes selection" not in figure and "prefers-color-scheme: dark" in figure
    assert said.startswith("Toy") and "excludes selection" in said


def test_names_are_kept_apart_and_in_order() -> None:
    places = spread([0.1, 0.1, 0.1, 0.5], 0.04)
    assert np.all(np.diff(places) >= 0.039) and places[3] == 0.5 and np.mean(places[:3]) == pytest.approx(0.1, abs=0.01)


def test_one_seed_has_no_interval_over_seeds() -> None:
    assert over_seeds([0.2]) is None and "no intervals" in bars(1) and "3 seeds" in bars(3)
    interval = over_seeds([1.0, 2.0, 3.0])
    assert interval is not None and interval.high - 2 == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)


def test_progress_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: 1060.0))
    watch = StudyProgress(4, stream, started=1000.0)
    watch.share("runs/a", 0.5)
    watch.ended("runs/a", None)
    watch.ended("runs/b", "Traceback\nValueError: no")
    said = stream.getvalue()
    assert "a: done: 1 of 4 done, 1 min 0 s so far, about 3 min 0 s left" in said
    assert "b: failed: ValueError: no" in said and watch.failed == {"b": "Traceback\nValueError: no"}
    assert duration(3700) == "1 h 1 min" and duration(5) == "5 s"


def test_a_failed_trial_does_not_take_the_others_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = {**NODE, "seeds": [0], "values": [8], "references": ["popularity"], "without": []}
    path = tmp_path / "own.yaml"
    methods = {"ease": ["model=ease"], "content": ["model=content", "privacy=interaction", "dataset.minimum=2"]}
    path.write_text(json.dumps({**node, "methods": methods}))
    with pytest.raises(FedrecError, match="1 of the trials failed"):
        commands.run([str(path), "--output", str(tmp_path), "--name", "one", "--workers", "1", "--no-picture"])
    said = capsys.readouterr()
    assert "Failed: content-8-seed0:" in said.out and "dataset.minimum" in said.out
    assert "| ease | 8 |" in said.out and "2 are private" in said.err
    with pytest.raises(FedrecError, match="holds a study already"):
        commands.run([str(path), "--output", str(tmp_path), "--name", "one", "--no-picture"])
    with pytest.raises(FedrecError, match="leave out the rest"):
        commands.run(["--resume", str(tmp_path / "one"), "rounds=3"])


@pytest.mark.parametrize("lost_round", [1, 2])
def test_a_trial_that_lost_a_round_is_kept_as_spent_and_run_anew(tmp_path: Path, lost_round: int) -> None:
    """A round that a kill interrupted stays charged, and the last can't be paid: half a model is no trial."""
    study = of({**NODE, "seeds": [0], "values": [8], "without": [], "methods": {"ease": ["model=ease"]}}, "toy")
    begin(study, tmp_path / "one")
    (trial,) = study.trials()
    folder = RunFolder(tmp_path / "one" / "trials" / trial.name)
    with pytest.MonkeyPatch.context() as patch:
        real = loop.run_round

        def killed(session: Any, state: Any, number: int) -> Any:
            if number == lost_round:
                raise KeyboardInterrupt
            return real(session, state, number)

        patch.setattr(loop, "run_round", killed)
        with pytest.raises(KeyboardInterrupt):
            worker.trial(folder, list(trial.overrides), io.StringIO())
    worker.trial(folder, list(trial.overrides), io.StringIO())
    assert len((folder.path / "rounds.jsonl").read_text().splitlines()) == 2
    write(study, tmp_path / "one", {}, False, "")
    (cost,) = json.loads((tmp_path / "one" / "cost.json").read_text())
    assert cost["trials"] == 2 and cost["epsilon"] > 8.1  # what was lost is part of what the study cost
    assert [order["folder"] for order in list_tasks(study, tmp_path / "one") if order["kind"] == "trial"] == []


def test_flags_leave_the_overrides_behind_them_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[Study]()
    monkeypatch.setattr(commands, "carry_on", lambda study, *_: found.append(study))
    monkeypatch.setattr(runner, "begin", lambda study, folder: folder.mkdir(parents=True) or [])
    given = ["privacy-accuracy", "--methods", "ease,order", "--values", "1,0.5", "--seeds", "0", "rounds=3"]
    commands.run([*given, "--output", str(tmp_path)])
    assert (list(found[0].methods), found[0].values, found[0].seeds) == (["ease", "order"], (1, 0.5), (0,))
    assert found[0].given == ("rounds=3",)
    with pytest.raises(FedrecError, match=r"--seeds 0\.5: whole numbers with commas expected"):
        commands.run(["privacy-accuracy", "--seeds", "0.5"])


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FedrecError, match=r"pip install 'fedrec\[report\]', or --no-picture"):
        commands.run(["privacy-accuracy"])


def test_two_commands_do_not_run_one_study(finished: Path) -> None:
    import fcntl

    with (finished / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FedrecError, match="another command"):
            carry_out(resumed(finished), finished, 1, io.StringIO())


def alive(group: int) -> list[str]:
    """Return the processes of a group that are more than zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found.append(path.parent.name)
    return found


@pytest.mark.slow
def test_a_killed_study_leaves_no_worker_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    methods = {"content": ["model=content", "rounds=40"], "popularity": ["model=popularity"]}
    path.write_text(json.dumps({**NODE, "methods": methods, "values": [8], "references": ["popularity"]}))
    command = [sys.executable, "-m", "fedrec", "study"]
    begun = [*command, str(path), "--output", str(tmp_path), "--name", "one", "--workers", "2", "--no-picture"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(begun, env=environment, start_new_session=True)
    lines = tmp_path / "one" / "trials" / "content-8-seed0" / "rounds.jsonl"
    deadline = time.monotonic() + 300
    while not (lines.exists() and len(lines.read_text().splitlines()) > 3):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    while alive(first.pid):
        assert time.monotonic() < deadline, "a worker outlived its study"
        time.sleep(0.1)
    half = len(lines.read_text().splitlines())
    done = subprocess.run([*command, "--resume", str(tmp_path / "one"), "--no-picture"], env=environment, check=False)
    assert done.returncode == 0 and half > 3
    assert half <= 40 and len(lines.read_text().splitlines()) == 40
    left = list(lines.parent.parent.glob("content-8-seed0.lost*"))
    assert len(left) <= 1 and all((path / "spent.json").exists() for path in left)


def test_a_study_says_what_was_chosen_for_its_data(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\n" + "".join(f"u{n % 9},i{n * n % 7},{n}\n" for n in range(90)))
    own = ("dataset=csv", f"dataset.path={log}", "privacy=user")
    methods = {"auto": ("model=auto",), "named": ("model=popularity",)}
    study = Study("s", "t", methods, "privacy.epsilon", (8.0,), "epsilon", own, seeds=(0, 1))
    said = begin(study, tmp_path / "study")
    assert len(said) == 1 and said[0].startswith("auto-8-seed0: model=popularity: chosen by model=auto")
