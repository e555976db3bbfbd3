"""A ledger, a configuration, a checkpoint, a clock that were tampered with: each refused, and said what is wrong.

Each case has its positive control: untouched, the same run goes on; with the check taken out, the fraud succeeds.
"""

import ast
import hashlib
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import FedrecError, RefusedError
from fedrec.federated.loop import run
from fedrec.paths import anchor_path, ledger_path
from fedrec.privacy.ledger import store
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.ledger.store import Anchor, entry_hash
from fedrec.privacy.ledger.verify import FIRST
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.storage.run_folder import RunFolder, load_checkpoint, save_checkpoint
from tests.support.tiny import SMALL, session, small

PLAN = TrainingPlan(population=40, interactions=400, cohort_rate=1.0, rounds=4, trains=True)
CHECKER = Path(__file__).parents[3] / "fedrec" / "privacy" / "ledger" / "verify.py"


def opened(run: str = "run", limit: float | None = None, epsilon: float = 2.0) -> Ledger:
    return Ledger.open("people", run, UserLevel(epsilon=epsilon).calibrated(PLAN, math.inf), PLAN, 40, limit)


def play(ledger: Ledger, *rounds: int) -> None:
    for number in rounds:
        ledger.reserve(number)
        ledger.commit(number, np.array([1, 3]))


@dataclass
class Files:
    """A ledger with two of four rounds spent, and copies from when there was one."""

    path: Path
    old: Path
    old_anchor: Path

    @property
    def anchor(self) -> Path:
        return anchor_path(self.path)

    def execute(self, *statements: str) -> None:
        with sqlite3.connect(self.path) as database:
            for statement in statements:
                database.execute(statement)
        database.close()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    path = ledger_path("people")
    made = Files(path, tmp_path / "old.sqlite", tmp_path / "old.anchor")
    ledger = opened()
    play(ledger, 1)
    ledger.close()
    shutil.copy(path, made.old)
    shutil.copy(made.anchor, made.old_anchor)
    ledger = opened()
    play(ledger, 2)
    ledger.close()
    return made


CHEAPER = "UPDATE entries SET body = replace(body, '\"event\": [[', '\"event\": [[9') WHERE kind = 'reserve'"


def edited(files: Files) -> None:
    files.execute(CHEAPER)


def edited_and_hashed(files: Files) -> None:
    """The newest reservation gets noise that it never had, and a hash that fits it."""
    files.execute(CHEAPER + " AND seq = 4")
    with sqlite3.connect(files.path) as database:
        previous, run, kind, body = database.execute(
            "SELECT previous, run, kind, body FROM entries WHERE seq = 4"
        ).fetchone()
        database.execute("UPDATE entries SET hash = ? WHERE seq = 4", (entry_hash(previous, run, kind, body),))
    database.close()


def rewritten(files: Files) -> None:
    """Every entry gets a new hash: a chain that is whole, and another one."""
    files.execute(CHEAPER)
    previous = FIRST
    with sqlite3.connect(files.path) as database:
        for seq, run, kind, body in database.execute(
            "SELECT seq, run, kind, body FROM entries ORDER BY seq"
        ).fetchall():
            digest = entry_hash(previous, run, kind, body)
            database.execute("UPDATE entries SET previous = ?, hash = ? WHERE seq = ?", (previous, digest, seq))
            previous = digest
    database.close()


def one_deleted(files: Files) -> None:
    files.execute("DELETE FROM entries WHERE seq = 2")


def closed_up(files: Files) -> None:
    """A round is taken out and what follows moves up."""
    files.execute("DELETE FROM entries WHERE seq IN (2, 3)", "UPDATE entries SET seq = seq - 2 WHERE seq > 3")


def cut_off(files: Files) -> None:
    files.execute("DELETE FROM entries WHERE seq > 3")


def torn(files: Files) -> None:
    os.truncate(files.path, files.path.stat().st_size // 2)


def rolled_back(files: Files) -> None:
    shutil.copy(files.old, files.path)


def deleted(files: Files) -> None:
    files.path.unlink()


def emptied(files: Files) -> None:
    files.execute("DELETE FROM entries", "DELETE FROM participations")


def counts_changed(files: Files) -> None:
    files.execute("UPDATE participations SET counts = zeroblob(8)")


def of_others(files: Files) -> None:
    play(Ledger.open("others", "run", UserLevel(epsilon=9.0).calibrated(PLAN, math.inf), PLAN, 40), 1)
    shutil.copy(ledger_path("others"), files.path)


def anchor_deleted(files: Files) -> None:
    files.anchor.unlink()


def anchor_damaged(files: Files) -> None:
    files.anchor.write_text("7 none")


CASES: dict[str, tuple[Callable[[Files], None], str]] = {
    "an entry edited": (edited, "entry 2 .a reserve of run. was changed after it was written"),
    "edited, with a new hash": (edited_and_hashed, "entry 5 does not follow entry 4"),
    "the whole chain written anew": (rewritten, "rolled back, cut or replaced: entry 5"),
    "an entry deleted": (one_deleted, "entry 2 is missing"),
    "a round deleted, the rest moved up": (closed_up, "entry 2 does not follow entry 1"),
    "the newest entries deleted": (cut_off, "rolled back, cut or replaced: entry 5"),
    "the file cut in half": (torn, "ledger .* (can't be written or read|tampered with or damaged)"),
    "rolled back to a copy": (rolled_back, "rolled back, cut or replaced: entry 5"),
    "the file deleted": (deleted, "is gone, though its anchor .* knows 5 entries"),
    "everything in it deleted": (emptied, "rolled back, cut or replaced: entry 5"),
    "participations changed": (counts_changed, "how often each device took part in run was changed"),
    "another ledger in its place": (of_others, "rolled back, cut or replaced: entry 5"),
    "the anchor deleted": (anchor_deleted, "has lost its anchor"),
    "the anchor damaged": (anchor_damaged, "anchor .* is damaged"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_ledger_that_was_tampered_with_is_refused(files: Files, case: str) -> None:
    tamper, said = CASES[case]
    tamper(files)
    with pytest.raises(FedrecError, match=said) as refused:
        opened()
    assert "people" in str(refused.value)
    assert any(way in str(refused.value) for way in ("ut back", "nothing may be released", "put the anchor back"))


def test_untouched_the_run_goes_on(files: Files) -> None:
    ledger = opened()
    play(ledger, 3, 4)
    assert [row["round"] for row in ledger.rows()] == [1, 2, 3, 4]
    with pytest.raises(RefusedError, match="would pass"):
        ledger.reserve(5)


@pytest.mark.parametrize("case", ["an entry edited", "rolled back to a copy", "the whole chain written anew"])
def test_without_the_check_the_fraud_would_pay(files: Files, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = opened()
    spent = honest.epsilon()
    honest.close()
    CASES[case][0](files)
    monkeypatch.setattr(store, "check_whole", lambda *anything: None)
    monkeypatch.setattr(store.LedgerStore, "check_in_place", lambda _: None)
    assert opened().epsilon() < spent


def test_both_files_rolled_back_are_found_by_the_checkpoint(files: Files) -> None:
    """What one machine can't tell from the two files alone: an old copy of both. The head in a checkpoint tells."""
    ledger = opened()
    head = ledger.head
    ledger.check_holds(head)
    ledger.close()
    shutil.copy(files.old, files.path)
    shutil.copy(files.old_anchor, files.anchor)
    ledger = opened()
    with pytest.raises(RefusedError, match="does not hold what this run has spent"):
        ledger.check_holds(head)


def test_an_anchor_elsewhere_finds_a_restored_state_folder(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With FEDREC_ANCHORS on another disk, putting back the whole state folder, or starting another, is noticed."""
    shutil.copytree(files.anchor.parent, tmp_path / "disk")
    monkeypatch.setenv("FEDREC_ANCHORS", str(tmp_path / "disk"))
    opened().close()
    shutil.copy(files.old, files.path)
    shutil.copy(files.old_anchor, files.path.parent.parent / "anchors" / files.anchor.name)
    with pytest.raises(RefusedError, match="rolled back"):
        opened()
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "fresh"))
    with pytest.raises(RefusedError, match="is gone, though its anchor"):
        opened()


def test_an_anchor_that_is_behind_is_no_fraud(files: Files) -> None:
    """A kill between the ledger's commit and the anchor's leaves the anchor one transaction behind."""
    shutil.copy(files.old_anchor, files.anchor)
    ledger = opened()
    play(ledger, 3)
    assert Anchor(files.anchor).read() == (7, ledger.head)
    Anchor(files.anchor).advance(3, FIRST)
    assert Anchor(files.anchor).read() == (7, ledger.head)


def test_no_budget_comes_back_with_the_clock(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rule of the ledger looks at a clock, so that none can be set back."""
    play(opened(), 3, 4)
    for years in (-10, 10):
        now = time.time() + years * 31_536_000
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with pytest.raises(RefusedError, match="would pass"):
            opened().reserve(5)
    room = Path(store.__file__).parent
    for name in ("ledger", "store", "account", "population", "projection", "verify"):
        assert "import time" not in (room / f"{name}.py").read_text()


def test_a_larger_budget_in_the_configuration_is_refused(files: Files) -> None:
    with pytest.raises(RefusedError, match=r"epsilon was 2\.0 and is 9\.0.* Start a new run"):
        opened(epsilon=9.0)


def test_the_twenty_first_trial_is_refused(tmp_path: Path) -> None:
    """Twenty trials on the same users cost twenty trials; deleting their folders refunds nothing."""
    plan = TrainingPlan(population=40, interactions=400, cohort_rate=1.0, rounds=1, trains=True)
    mechanism = UserLevel(epsilon=0.5).calibrated(plan, math.inf)
    one, twenty = 0.0, 0.0
    for trial in range(20):
        ledger = Ledger.open("people", f"trial-{trial}", mechanism, plan, 40, 2.65)
        play(ledger, 1)
        one, twenty = one or ledger.population_total().epsilon, ledger.population_total().epsilon
        ledger.close()
    assert one == pytest.approx(0.5, rel=2e-3) and one < 0.2 * twenty and twenty <= 2.65
    for population, refused in (("people", True), ("others", False)):
        ledger = Ledger.open(population, "trial-20", mechanism, plan, 40, 2.65)
        if refused:
            with pytest.raises(
                RefusedError, match=r"all runs on these users would come to epsilon .*population_epsilon"
            ):
                ledger.reserve(1)
            assert ledger.rows() == []
        else:
            play(ledger, 1)


def gone(files: Files) -> None:
    files.path.unlink()


def another(files: Files) -> None:
    """An older copy takes its place under the same name."""
    fresh = files.path.with_name("fresh")
    shutil.copy(files.old, fresh)
    fresh.replace(files.path)


def with_its_anchor(files: Files) -> None:
    another(files)
    shutil.copy(files.old_anchor, files.anchor)


def anchor_gone(files: Files) -> None:
    files.anchor.unlink()


def cut_in_place(files: Files) -> None:
    files.execute("DELETE FROM entries WHERE seq > 3")


@pytest.mark.parametrize("tamper", [gone, another, with_its_anchor, anchor_gone, cut_in_place])
@pytest.mark.parametrize("reserved", [False, True])
def test_a_ledger_that_is_tampered_with_in_use_ends_the_run_at_its_next_round(
    files: Files, tamper: Callable[[Files], None], reserved: bool
) -> None:
    """Nothing is charged to a file that nobody will find, and nothing of the round is released."""
    ledger = opened()
    if reserved:
        ledger.reserve(3)
    tamper(files)
    with pytest.raises(FedrecError, match=r"deleted, replaced or rolled back|nothing may be released|not reserved"):
        _ = ledger.commit(3, np.array([1, 3])) if reserved else ledger.reserve(3)
    with pytest.raises(FedrecError):
        ledger.reserve(3)
    with pytest.raises(RefusedError, match="Put back its newest copy"):
        ledger.check_in_place()


def test_a_run_stops_at_the_round_after_its_ledger_was_deleted(tmp_path: Path) -> None:
    experiment, dataset = small("model=mf", "model.dim=2", "rounds=4", base=[*SMALL, "privacy=user"])
    done = list[int]()
    with session(experiment, dataset, tmp_path / "run") as opened_, pytest.raises(RefusedError, match="was deleted"):
        for report in run(opened_):
            done.append(report.round)
            if report.round == 2:
                ledger_path(dataset.population).unlink()
    assert done == [1, 2]
    saved = load_checkpoint(RunFolder(tmp_path / "run").checkpoints)
    assert saved is not None and saved.round == 2, "nothing of the round is kept"


def checked(*arguments: object) -> tuple[int, str]:
    """Run the checker as a script of its own, without fedrec in reach."""
    command = [sys.executable, "-I", str(CHECKER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    return done.returncode, done.stdout + done.stderr


def test_the_checker_stands_alone_and_is_short() -> None:
    tree = ast.parse(CHECKER.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert len(CHECKER.read_text().splitlines()) <= 100
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_the_checker_passes_a_whole_ledger(files: Files) -> None:
    head = opened().head
    assert checked(files.path, "--anchor", files.anchor, "--head", head) == (
        0,
        f"{files.path}: whole; every entry follows the one before it\n",
    )


@pytest.mark.parametrize(
    "case",
    ["an entry edited", "an entry deleted", "rolled back to a copy", "participations changed", "the file deleted"],
)
def test_the_checker_finds_the_same(files: Files, case: str) -> None:
    CASES[case][0](files)
    code, said = checked(files.path, "--anchor", files.anchor)
    assert code == 1 and "Traceback" not in said and said.strip()


def test_the_checker_finds_a_missing_head_and_what_is_no_ledger(files: Files, tmp_path: Path) -> None:
    code, said = checked(files.path, "--head", "ab" * 32)
    assert code == 1 and "rolled back, cut off or replaced" in said
    (tmp_path / "note.sqlite").write_text("not a database" * 100)
    assert checked(tmp_path / "note.sqlite")[0] == 1


STORIES: dict[str, tuple[list[tuple[str, int]], str]] = {
    "released without a charge": ([("commit", 3)], "a commit of run can't follow commit"),
    "another round released": ([("reserve", 3), ("commit", 4)], "but round 3 was reserved"),
    "two charges open": ([("reserve", 3), ("reserve", 4)], "a reserve of run can't follow reserve"),
    "begun twice": ([("open", 0)], "a open of run can't follow commit"),
    "an unknown kind": ([("refund", 2)], "a refund of run can't follow commit"),
}


@pytest.mark.parametrize("story", STORIES)
def test_a_whole_chain_that_tells_an_impossible_story_is_refused(files: Files, story: str) -> None:
    """Whoever can write entries that are chained right still can't take a charge back."""
    entries, said = STORIES[story]
    with sqlite3.connect(files.path) as database:
        for kind, number in entries:
            (previous,) = database.execute("SELECT hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
            body = json.dumps({"round": number, "devices": 40})
            row = ("run", kind, body, previous, entry_hash(previous, "run", kind, body))
            database.execute("INSERT INTO entries (run, kind, body, previous, hash) VALUES (?, ?, ?, ?, ?)", row)
    database.close()
    with pytest.raises(RefusedError, match=said):
        opened()


def test_a_thousand_flipped_bits_change_nothing_unnoticed(files: Files, tmp_path: Path) -> None:
    """Invariant I17: a flipped bit is found, or lies where the ledger keeps nothing."""

    def told(path: Path) -> str:
        database = sqlite3.connect(path)
        try:
            if found := store.read_problems(database):
                return f"found: {found[0]}"
            rows = database.execute("SELECT run, kind, body, hash FROM entries ORDER BY seq").fetchall()
            by_run = database.execute("SELECT hash FROM entries WHERE run = 'run' ORDER BY seq").fetchall()
            return hashlib.sha256(
                repr((rows, by_run, database.execute("SELECT * FROM participations").fetchall())).encode()
            ).hexdigest()
        except sqlite3.Error as error:
            return f"found: {error}"
        finally:
            database.close()

    content, honest, flipped = files.path.read_bytes(), told(files.path), tmp_path / "flipped.sqlite"
    assert not honest.startswith("found")
    rng, results = np.random.default_rng(0), []
    for bit in rng.integers(0, 8 * len(content), 1000):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        flipped.write_bytes(damaged)
        results.append(told(flipped))
    assert {result for result in results if not result.startswith("found")} <= {honest}
    assert sum(result.startswith("found") for result in results) > 50


@pytest.mark.parametrize("broken", ["fsync", "fdatasync"])
def test_a_disk_that_fails_ends_the_round_before_anything_is_drawn(
    files: Files, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Invariant I16: where the anchor can't be made durable nothing may be released; the charge stays."""
    ledger = opened()

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(FedrecError, match="nothing may be released"):
        patch.setattr(os, broken, fails)
        if broken == "fdatasync":
            ledger.reserve(3)
        else:
            Ledger.open("new", "run", UserLevel(epsilon=2.0).calibrated(PLAN, math.inf), PLAN, 40)
    lost = ["lost"] if broken == "fdatasync" else []
    assert [row["status"] for row in opened().rows()] == ["committed", "committed", *lost]


def begun(path: Path, *overrides: str, rounds: int = 2) -> list[int]:
    """Play the next rounds of a run in this folder and stop."""
    experiment, dataset = small("model=mf", "model.dim=2", "rounds=4", *overrides, base=[*SMALL, "privacy=user"])
    with session(experiment, dataset, path) as opened_:
        return [report.round for report in islice(run(opened_), rounds)]


def test_a_run_goes_on_with_the_settings_that_it_began_with(tmp_path: Path) -> None:
    assert begun(tmp_path) == [1, 2]
    changes = ("privacy.population_epsilon=100", "privacy.clip=7")
    for change in changes:
        with pytest.raises(
            RefusedError, match=r"config\.yaml was changed since round 2.*Put back the old file, or start"
        ):
            begun(tmp_path, change)
    for change in ("privacy.epsilon=9",):
        with pytest.raises(RefusedError, match="under other terms"):
            begun(tmp_path, change)
    assert begun(tmp_path) == [3, 4]


def test_a_checkpoint_that_was_rolled_back_draws_no_second_noise(tmp_path: Path) -> None:
    begun(tmp_path)
    sorted((tmp_path / "checkpoint").glob("*.safetensors"))[-1].unlink()
    with pytest.raises(RefusedError, match="round 2 of run was released already: a second draw would not be charged"):
        begun(tmp_path)


def charged_rounds(path: Path) -> int:
    """How many rounds the run's ledger charged."""
    experiment, dataset = small(
        "model=mf", "model.dim=2", "rounds=4", "privacy=banded", "cohort.size=4", base=[*SMALL, "privacy=user"]
    )
    with session(experiment, dataset, path) as opened_:
        return len(opened_.ledger.rows())  # type: ignore[attr-defined]


def test_what_an_older_fedrec_kept_for_banded_noise_is_refused_before_the_charge(tmp_path: Path) -> None:
    turns = ("privacy=banded", "cohort.size=4")
    assert begun(tmp_path, *turns) == [1, 2]
    folder = RunFolder(tmp_path).checkpoints
    saved = load_checkpoint(folder)
    assert saved is not None and saved.mechanism_state
    old = {f"noise/{number}": array for number, array in enumerate(saved.mechanism_state.values())}
    save_checkpoint(folder, replace(saved, mechanism_state=old))
    rows = charged_rounds(tmp_path)
    with pytest.raises(RefusedError, match=r"privacy=banded keeps .* older fedrec.*start a new run"):
        begun(tmp_path, *turns)
    assert charged_rounds(tmp_path) == rows
