"""A run as a value: its figures, its table, its recommendations, and what it says where something is missing."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import fedrec
from fedrec.api import execution
from fedrec.api.execution import NotebookProgress
from fedrec.api.runs import Run
from fedrec.errors import FedrecError
from fedrec.experiment import instantiate
from fedrec.models.mf import MatrixFactorization
from fedrec.report.console import Progress
from fedrec.simulation import Simulation

FAST = {"evaluation.baselines": [], "nodes": 1, "progress": False}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let runs/ lie in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    yield


def purchases(seed: int = 0, rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "customer_id": [f"C{n}" for n in rng.integers(0, 20, rows)],
            "sku": [f"S{n}" for n in rng.integers(0, 30, rows)],
            "order_date": pd.date_range("2025-01-01", periods=rows, freq="h"),
        }
    ).assign(name=lambda df: "thing " + df["sku"].str[1:])


COLUMNS: dict[str, Any] = {"user": "customer_id", "item": "sku", "time": "order_date", "title": "name"}


class MyMF(MatrixFactorization):
    dim = 4

    def __init__(self, catalogue: Any) -> None:
        super().__init__(catalogue, dim=self.dim)


def trained(**settings: Any) -> Run:
    chosen = {"model": MyMF, "privacy": fedrec.UserLevel(epsilon=8), "rounds": 2, **COLUMNS, **FAST, **settings}
    return fedrec.simulate(purchases(), **chosen)


def test_a_frame_a_class_and_an_object_make_a_run() -> None:
    threads = torch.get_num_threads()
    run = trained(name="mine")
    assert torch.get_num_threads() == threads
    assert run.folder == Path("runs/mine") and run.metrics["model"] == "MyMF"
    assert run.metrics["ndcg@10"] == run.metrics["test"]["full"]["ndcg@10"]
    with pytest.raises(KeyError, match=r"ndgc@10 does not exist.*ndcg@10"):
        run.metrics["ndgc@10"]
    assert run.history["round"].tolist() == [1, 2] and run.history["loss"].notna().all()
    assert run.history["epsilon"].iloc[-1] == pytest.approx(8, abs=0.01)
    assert "epsilon 8.00" in run.guarantee and "user" in run.guarantee
    assert run.card["fields"]["unit"] and run.card._repr_markdown_().startswith("#")
    assert type(run.model) is MyMF and run.model.item.weight.shape == (30, 4)
    assert run.per_user()["user"].tolist() == sorted(purchases()["customer_id"].unique())
    assert run.report().name == "report.html" and run.report().is_file()


def test_recommendations_are_a_table_of_items_titles_scores_and_reasons() -> None:
    run = trained(model="ease", privacy="none")
    rows = run.recommend(likes=["thing 3", "S4"], k=3)
    assert list(rows.columns) == ["item", "title", "score", "because"] and len(rows) == 3
    assert rows["title"][0] == "thing " + rows["item"][0][1:] and rows["score"].is_monotonic_decreasing
    assert "thing" in rows["because"][0] and not set(rows["item"]) & {"S3", "S4"}
    assert run.recommend(likes="thing 3; thing 4", k=3).equals(rows)
    used = set(purchases().loc[purchases()["customer_id"] == "C7", "sku"])
    assert not set(run.recommend(user="C7", k=5)["item"]) & used
    for wrong, said in (
        ({}, "one of them is expected"),
        ({"user": "C99"}, "no user is called 'C99'"),
        ({"likes": ["thing 33"]}, "no item is called 'thing 33'"),
        ({"likes": []}, "at least one title"),
        ({"user": "C1", "k": 0}, "k=0"),
    ):
        with pytest.raises(FedrecError, match=said):
            run.recommend(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_run_shows_itself_in_a_notebook_and_as_a_line(tmp_path: Path) -> None:
    run = fedrec.simulate(dataset="synthetic", model="popularity", privacy="user", name="shown", progress=False)
    html = run._repr_html_()
    assert html.startswith("<p>On synthetic") and "popularity, pooled data" in html and "<table>" in html
    assert html.count(escape(run.guarantee)) == 1 and "Folder: runs/shown" in html and "<style" not in html
    assert repr(run).startswith("<fedrec run shown: popularity, NDCG@10 0.") and "\n" not in repr(run)
    for ending in ("svg", "pdf"):
        assert run.plot(tmp_path / f"rounds.{ending}")._repr_png_()[1:4] == b"PNG"
        assert (tmp_path / f"rounds.{ending}").stat().st_size > 1000
    with pytest.raises(FedrecError, match=r"rounds.svgg: the ending decides.*'svg'"):
        run.plot(tmp_path / "rounds.svgg")


def test_a_run_is_found_again_in_its_folder() -> None:
    run = trained(model="mf")
    again = fedrec.load_run(run.folder, purchases())
    assert again == run and again.metrics == run.metrics and again.history.equals(run.history)
    assert again.recommend(user="C3", k=2).equals(run.recommend(user="C3", k=2))
    with pytest.raises(FedrecError, match=r"not those of.*their content is.*the same rows in the same order"):
        fedrec.load_run(run.folder, purchases(seed=1))
    with pytest.raises(FedrecError, match="was not trained on a data frame"):
        fedrec.load_run(fedrec.simulate(dataset="synthetic", model="popularity", **FAST).folder, purchases())


def test_without_the_frame_figures_and_newcomers_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(model="ease", privacy="none")
    expected = run.recommend(likes=["thing 3"], k=3)
    forget_frames(monkeypatch)
    again = fedrec.load_run(run.folder)
    assert again.metrics["ndcg@10"] == run.metrics["ndcg@10"] and len(again.history) == len(run.history)
    assert again.recommend(likes=["thing 3"], k=3).equals(expected)
    assert again.catalogue.titles[0] == "thing 0" and again.model.items == 30
    assert "user" not in again.per_user().columns and len(again.per_user()) == 20
    with pytest.raises(FedrecError, match=r"not in this process.*load_run\(FOLDER, frame\)"):
        again.recommend(user="C3")
    with pytest.raises(FedrecError, match="not in this process"):
        again.resume(progress=False)
    assert len(fedrec.load_run(run.folder, purchases()).recommend(user="C3", k=2)) == 2


def forget_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process as a new one would be."""
    from fedrec.data.datasets import frame
    from fedrec.experiment import experiment

    monkeypatch.setattr(frame, "_held", type(frame._held)())
    monkeypatch.setattr(experiment, "_datasets", {})


def test_a_class_that_is_not_known_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained()
    monkeypatch.setattr(instantiate, "_classes", {})
    again = fedrec.load_run(run.folder, purchases())
    assert again.metrics["model"] == "MyMF" and len(again.history) == 2
    with pytest.raises(FedrecError, match=r"test_runs\.MyMF.*define or import it, then.*allow=THE_CLASS"):
        again.recommend(likes=["thing 3"])
    found = fedrec.load_run(run.folder, purchases(), allow=MyMF).recommend(user="C3", k=2)
    assert found.equals(run.recommend(user="C3", k=2))


def test_a_class_that_was_defined_anew_is_the_one_that_trains() -> None:
    assert trained().model.item.weight.shape[1] == 4  # type: ignore[union-attr]
    again = type("MyMF", (MyMF,), {"dim": 6, "__module__": __name__, "__qualname__": "MyMF"})
    assert trained(model=again).model.item.weight.shape[1] == 6  # type: ignore[union-attr]
    assert trained().model.item.weight.shape[1] == 4  # type: ignore[union-attr]


def test_an_interrupted_run_says_the_call_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Progress, report: Any) -> None:
        if report.round == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execution.SilentProgress, "round", stop)
        with pytest.raises(
            KeyboardInterrupt, match=r"fedrec.load_run\('runs/cut'\).resume\(frame\) goes on"
        ) as stopped:
            trained(rounds=4, name="cut")
    assert stopped.value.__suppress_context__
    run = fedrec.load_run("runs/cut")
    assert (
        repr(run)
        == "<fedrec run cut, not finished: .resume() goes on>"
        == run._repr_html_()[3:-4].replace("&lt;", "<").replace("&gt;", ">")
    )
    assert run.history["round"].tolist() == [1, 2]
    with pytest.raises(FedrecError, match=r"no metrics\.json yet, the run is not finished"):
        run.metrics["ndcg@10"]
    assert run.resume(purchases(), progress=False).history["round"].tolist() == [1, 2, 3, 4]
    assert run.metrics["privacy"]["epsilon"] == pytest.approx(8, abs=0.01)  # nothing was charged twice


def test_a_mistake_leaves_no_run_behind() -> None:
    for wrong, said in (
        ({"user": "custmer_id"}, "Did you mean 'customer_id'"),
        ({"roundz": 3}, "Did you mean 'rounds'"),
        ({"privacy": fedrec.InteractionLevel(), "dataset.minimum": 2}, "dataset.minimum"),
    ):
        with pytest.raises(FedrecError, match=said):
            trained(**wrong)
    assert not Path("runs").exists()
    trained(name="once")
    with pytest.raises(FedrecError, match="holds a run already"):
        trained(name="once")


def test_a_setting_that_another_one_overrules_is_said() -> None:
    with pytest.warns(UserWarning, match="rounds=9 is not used: algorithm gram plays 2 rounds"):
        run = trained(model="ease", rounds=9)
    assert len(run.history) == 2
    with pytest.warns(UserWarning, match=r"privacy\.clip=0\.3 is not used: algorithm gram trains nothing"):
        fedrec.simulate(dataset="synthetic", model="ease", privacy=fedrec.UserLevel(clip=0.3), **FAST)


def test_progress_in_a_notebook_is_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[tuple[str, float]]()
    monkeypatch.setattr(NotebookProgress, "show", lambda self, text, share: drawn.append((text, share)))
    monkeypatch.setattr(execution, "in_notebook", lambda: True)
    monkeypatch.setattr(execution, "REDRAWN", 0.0)
    fedrec.simulate(dataset="synthetic", model="mf", privacy="user", rounds=2, **{**FAST, "progress": True})
    assert [share for _, share in drawn] == [0.0, 0.5, 1.0, 1.0] and drawn.pop()[0].startswith("done in ")
    assert drawn[-1][0].startswith("run: round 2 of 2, validation NDCG@10 0.") and "epsilon 8.00" in drawn[-1][0]


def test_the_command_line_says_how_a_run_on_a_frame_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.experiment.settings import read
    from fedrec.storage.run_folder import RunFolder

    run = trained(model="mf")
    forget_frames(monkeypatch)
    with pytest.raises(FedrecError, match=r"fedrec.load_run\(FOLDER, frame\) brings them back"):
        Simulation(read(run.folder / "config.yaml"), RunFolder(run.folder), lambda: None, Progress()).simulate()  # type: ignore[arg-type, return-value]


def test_importing_fedrec_loads_nothing_and_offers_everything() -> None:
    code = (
        "import sys, fedrec; heavy = {'numpy', 'torch', 'pyarrow', 'flwr', 'fedrec.api'} & set(sys.modules);"
        "print(sorted(heavy), set(fedrec.__all__) <= set(dir(fedrec)), fedrec.__version__)"
    )
    checkout = Path(fedrec.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=2)[:2] == ["[]", "True"]
    for name in fedrec.__all__:
        assert getattr(fedrec, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        fedrec.simulat  # type: ignore[attr-defined]  # noqa: B018
    assert (Path(fedrec.__file__).parent / "py.typed").exists()


def test_audit_and_study_are_functions_and_packages() -> None:
    for name in ("audit", "study"):
        package = importlib.import_module(f"fedrec.{name}")
        assert callable(getattr(fedrec, name)) and getattr(fedrec, name) in (package, getattr(fedrec.api, name))
    assert importlib.import_module("fedrec.audit.auditor") is sys.modules["fedrec.audit.auditor"]
    assert callable(fedrec.audit) and callable(fedrec.study)


def test_metrics_are_those_of_the_file() -> None:
    run = fedrec.simulate(dataset="synthetic", model="popularity", **FAST)
    assert dict(run.metrics) == json.loads((run.folder / "metrics.json").read_text())
