"""Studies and audits as values: which trials are run where, the table, the picture, and what goes on from where."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedrec
from fedrec.api import studies
from fedrec.api.studies import NotebookStudyProgress
from fedrec.errors import FedrecError
from fedrec.models.mf import MatrixFactorization
from fedrec.study.results import Results
from fedrec.study.runner import StudyProgress
from tests.unit.api.test_runs import COLUMNS, purchases


class MyMF(MatrixFactorization):
    def __init__(self, catalogue: Any, *, dim: int = 4) -> None:
        super().__init__(catalogue, dim=dim)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let runs/ lie in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    yield


def small(**settings: Any) -> Any:
    chosen = {"models": ["popularity", MyMF], "epsilon": [8], "seeds": [0], "rounds": 1, "progress": False}
    return fedrec.study(purchases(), **{**chosen, **COLUMNS, "name": "small", **settings})


def test_a_study_of_a_frame_and_a_class_is_run_in_this_process(tmp_path: Path) -> None:
    found = small()
    assert found.failed == {} and found.folder == Path("runs/small")
    table = found.table
    assert list(table.columns) == ["method", "kind", "epsilon", "ndcg@10", "low", "high", "hr@10", "seeds"]
    trials = table[table["kind"] != "reference"]
    assert sorted(zip(trials["method"], trials["kind"], strict=True)) == [
        ("MyMF", "no privacy"), ("MyMF", "private"), ("popularity", "no privacy"), ("popularity", "private"),
    ]  # fmt: skip
    assert ((table["low"] <= table["ndcg@10"]) & (table["ndcg@10"] <= table["high"])).all()
    assert "2 private trials would together have cost epsilon" in found.cost
    assert repr(found) == "<fedrec study small: 6 rows; .table, .plot()>"
    assert (
        "<td>MyMF</td><td>private</td><td>8</td>" in found._repr_html_()
        and found.cost.split(" (")[0] in found._repr_html_()
    )
    assert found.plot(tmp_path / "frontier.svg")._repr_png_()[1:4] == b"PNG" and (tmp_path / "frontier.svg").is_file()
    assert (found.folder / "table.md").read_text().startswith("# Accuracy under user-level privacy")


def test_a_study_goes_on_in_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: StudyProgress, name: str, why: str | None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StudyProgress, "ended", stop)
        with pytest.raises(
            KeyboardInterrupt, match=r"fedrec.study\('runs/small'\), with the frame and the models as before goes on"
        ):
            small()
    found = fedrec.study("runs/small", purchases(), models=[MyMF], progress=False, **COLUMNS)
    assert len(found.table) == 6 and found.failed == {}
    with pytest.raises(FedrecError, match="holds a study already"):
        small()


def test_a_trial_that_fails_is_named_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    perform = studies.perform

    def failing(task: Any, *rest: Any) -> None:
        if Path(task["folder"]).name == "MyMF-8-seed0":
            raise FedrecError("no luck")
        perform(task, *rest)

    monkeypatch.setattr(studies, "perform", failing)
    found = small()
    assert found.failed == {"MyMF-8-seed0": "no luck"} and len(found.table) == 5
    assert "1 of its trials failed" in repr(found) and "Failed: MyMF-8-seed0: no luck" in found._repr_html_()


def test_plans_by_name_run_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict[str, Any]()

    class Pool:
        def __init__(self, size: int, log: Path) -> None:
            given["size"] = size

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *reason: object) -> None: ...

        def run(self, tasks: Any, listener: Any) -> None:
            given["tasks"] = tasks

    monkeypatch.setattr(studies, "Pool", Pool)
    given_models: dict[str, Any] = {"models": ["ease", "popularity"], "epsilon": [2], "seeds": [5], "name": "plan"}
    found = fedrec.study("privacy-accuracy", dataset="synthetic", progress=False, **given_models)
    names = sorted(Path(task["folder"]).name for task in given["tasks"] if task["kind"] == "trial")
    assert names[:2] == ["ease-2-seed5", "ease-without-seed5"] and len(names) == 4 and given["size"] >= 1
    assert all("dataset=synthetic" in task["overrides"] for task in given["tasks"])
    assert isinstance(found.results, Results)
    with pytest.raises(FedrecError, match="no trial has ended"):
        found.plot()


def test_a_mechanism_as_an_object_is_varied() -> None:
    found = small(models=["popularity"], privacy=fedrec.UserLocal(), epsilon=[4], **{"evaluation.negatives": 20})
    private = found.table[found.table["kind"] == "private"]
    assert private["epsilon"].tolist() == [4] and "trusts the device only" in found.cost


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fedrec.study(dataset="synthetic"), r"study\(models=\['ease', MyModel\]"),
        (lambda: fedrec.study("privacy-acuracy"), "privacy-acuracy.*'privacy-accuracy'"),
        (lambda: fedrec.study(models=["eas"], dataset="synthetic"), "model=eas does not exist"),
        (lambda: fedrec.study(models=["ease"], privacy="none"), "privacy=none has no epsilon to vary"),
        (lambda: fedrec.study(models=[dict]), "model=dict: a subclass"),
        (lambda: fedrec.audit(points=[99]), "points lie between 0.5 and 20"),
    ],
)
def test_mistakes_name_what_would_be_right(call: Any, said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        call()
    assert not Path("runs").exists()


def test_a_study_in_a_notebook_is_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[tuple[str, float]]()
    seen = NotebookStudyProgress(2)
    monkeypatch.setattr(type(seen.bar), "show", lambda self, text, share: drawn.append((text, share)))
    seen.share("a", 0.5)
    seen.ended("a", None)
    seen.ended("b", "it failed")
    assert drawn == [("0 of 2 trials", 0.25), ("1 of 2 trials", 0.5), ("2 of 2 trials", 1.0)]
    assert seen.failed == {"b": "it failed"}


def test_an_audit_of_a_run_takes_its_settings_alone() -> None:
    run = fedrec.simulate(dataset="synthetic", model="popularity", privacy="user", progress=False)
    found = fedrec.audit(run, canaries=300)
    assert found.verdict in ("holds", "loose") and found.table["trial"].tolist() == ["noise", "noise", "possible"]
    assert repr(found).startswith("Audit of UserLevel") and found._repr_html_().startswith("<pre>Audit of")
    assert "no audit" not in run.card["fields"]["evidence"]["audit"] and "loose" not in str(run.card)  # too few to cite
    with pytest.raises(FedrecError, match="takes the run's own settings"):
        fedrec.audit(run, "rounds=3")
