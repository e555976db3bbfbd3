"""The process of a study that carries out its tasks: what it tells of them, whatever becomes of one."""

import io
import json
import queue
from pathlib import Path
from typing import Any

import pytest

from fedrec.errors import BudgetExceededError, FedrecError
from fedrec.storage.run_folder import RunFolder
from fedrec.study import worker
from tests.support.tiny import FREE


class Ended(BaseException):
    """No more commands."""


class Commands(queue.Queue[str]):
    """Commands that end."""

    def __init__(self, *tasks: dict[str, Any]) -> None:
        super().__init__()
        for task in tasks:
            self.put(json.dumps(task))

    def get(self, block: bool = True, timeout: float | None = None) -> str:
        if self.empty():
            raise Ended
        return super().get(block, timeout)


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_task_that_fails_is_told_and_the_next_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {"refused": FedrecError("model=mff does not exist"), "broken": ZeroDivisionError("division")}

    def perform(task: dict[str, Any], stream: io.StringIO) -> None:
        if fault := faults.get(task["name"]):
            raise fault

    monkeypatch.setattr(worker, "perform", perform)
    stream = io.StringIO()
    with pytest.raises(Ended):
        worker.serve(Commands({"name": "refused"}, {"name": "broken"}, {"name": "good"}), stream)
    told = events(stream)
    assert [one["event"] for one in told] == ["failed", "failed", "finished"]
    assert told[0]["why"] == "model=mff does not exist"
    assert "ZeroDivisionError" in told[1]["why"] and "test_worker.py" in told[1]["why"], "with where it broke"


def test_a_trial_and_references_are_carried_out_and_tell_their_share(tmp_path: Path) -> None:
    overrides = [*FREE, "model=popularity", "evaluation.baselines=[]", "evaluation.users=20"]
    trial = {"kind": "trial", "folder": str(tmp_path / "trial"), "overrides": overrides}
    beside = {"kind": "references", "folder": str(tmp_path / "beside"), "overrides": overrides}
    stream = io.StringIO()
    with pytest.raises(Ended):
        worker.serve(Commands(trial, {**beside, "names": ["popularity"]}, {**beside, "names": ["popularity"]}), stream)
    assert [(one["event"], one.get("done")) for one in events(stream)] == [
        ("round", 1.0), ("finished", None), ("round", 1.0), ("finished", None), ("round", 1.0), ("finished", None)
    ]  # fmt: skip
    assert (tmp_path / "trial" / "metrics.json").exists()
    assert [path.name for path in (tmp_path / "beside" / "exact").iterdir()] == ["users_popularity.npz"]


def test_a_budget_that_a_new_trial_can_not_pay_is_its_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def spent(*_: Any) -> bool:
        raise BudgetExceededError("the budget is spent")

    monkeypatch.setattr(worker, "played", spent)
    with pytest.raises(BudgetExceededError):
        worker.trial(RunFolder(tmp_path / "new"), [], io.StringIO())
    assert not (tmp_path / "new").exists()


def test_a_killed_trial_that_can_not_pay_is_kept_beside_and_run_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "trial")
    folder.create("{}\n")
    (tmp_path / "trial.lost1").mkdir()
    calls = list[bool]()

    def played(*_: Any) -> bool:
        calls.append(folder.config.exists())
        if len(calls) == 1:
            raise BudgetExceededError("the budget is spent")
        return True

    monkeypatch.setattr(worker, "played", played)
    monkeypatch.setattr(worker, "read", lambda path: None)
    monkeypatch.setattr(worker, "write_spent", lambda settings, folder: None)
    worker.trial(folder, [], io.StringIO())
    assert calls == [True, False] and (tmp_path / "trial.lost2" / "config.yaml").exists()


def test_a_trial_that_ends_early_is_no_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker, "played", lambda *_: False)
    with pytest.raises(FedrecError, match="ended early: another round would have passed the budget"):
        worker.trial(RunFolder(tmp_path / "trial"), [], io.StringIO())
