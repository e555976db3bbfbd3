"""What a baseline costs is said before it begins, and one that costs too much is left out with a line."""

import io
import json
from pathlib import Path

import pytest

from fedrec import simulation
from fedrec.api.execution import SilentProgress
from fedrec.data.interactions import DeviceTable
from fedrec.evaluation.baselines import cost
from fedrec.evaluation.baselines.cost import Cost, estimate_cost
from fedrec.evaluation.config import EvaluationConfig
from fedrec.experiment.settings import load
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, new_run
from fedrec.study.runner import StudyProgress
from fedrec.study.worker import Told
from tests.support.tiny import FREE, small

OPTIONS = EvaluationConfig()


def devices(users: int = 40, items: int = 60, interactions: int = 900) -> DeviceTable:
    sizes = f"dataset.users={users}", f"dataset.items={items}", f"dataset.interactions={interactions}"
    return small(*sizes, base=["dataset=synthetic", "privacy=none"])[1].devices


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the machine for as fast as the one that the costs were measured on."""
    monkeypatch.setattr(cost, "find_slowness", lambda: 1.0)


@pytest.mark.parametrize("name", ["item_knn", "ease", "ials"])
def test_more_users_and_more_items_cost_more(name: str) -> None:
    few = estimate_cost(name, devices(), OPTIONS)
    for more in (devices(users=400, interactions=9000), devices(items=600)):
        found = estimate_cost(name, more, OPTIONS)
        assert found.seconds > few.seconds and found.bytes >= few.bytes


def test_a_head_and_fewer_evaluated_users_cost_less() -> None:
    many, whole = devices(users=300, items=600, interactions=9000), OPTIONS
    assert (
        estimate_cost("item_knn", many, EvaluationConfig(head=50)).seconds
        < estimate_cost("item_knn", many, whole).seconds
    )
    assert estimate_cost("ials", many, EvaluationConfig(users=10)).seconds < estimate_cost("ials", many, whole).seconds


def test_nothing_is_fitted_for_popularity_and_a_device_alone() -> None:
    assert estimate_cost("popularity", devices(), OPTIONS) == estimate_cost("local", devices(), OPTIONS)


def test_a_cost_is_said_in_words() -> None:
    assert str(Cost(7.4, 2**30)) == "about 7 s and 1.0 GiB" and str(Cost(600, 2**31)) == "about 10 min and 2.0 GiB"


def run(tmp_path: Path, *overrides: str) -> tuple[set[str], str]:
    asked = ["model=popularity", "evaluation.baselines=[popularity,ease,local]", f"output={tmp_path}"]
    settings, folder = new_run(load([*FREE, *asked, *overrides]))
    stream = io.StringIO()
    values = Simulation(settings, folder, progress=Progress(stream)).simulate()
    return {name for name, found in values["baselines"].items() if found}, stream.getvalue()


def test_a_baseline_above_the_limit_is_left_out_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "estimate_cost", lambda name, *_: Cost(700 if name == "ease" else 1, 1))
    found, said = run(tmp_path)
    assert found == {"popularity", "local"}
    assert "EASE, pooled data is left out: about 12 min" in said and "baselines_seconds=600" in said
    found, said = run(tmp_path, "evaluation.baselines_seconds=null")
    assert "ease" in found and "EASE, pooled data: about 12 min" in said and "left out" not in said


def test_a_baseline_that_does_not_fit_into_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "estimate_cost", lambda name, *_: Cost(1, 2**62 if name == "ease" else 1))
    found, said = run(tmp_path, "evaluation.baselines_seconds=null")
    assert found == {"popularity", "local"} and "this machine has" in said


def test_popularity_is_always_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "estimate_cost", lambda *_: Cost(1e9, 1))
    assert run(tmp_path)[0] == {"popularity"}


def test_how_far_a_baseline_is_is_told_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fedrec.report.console.time.monotonic", lambda: now[0])
    progress = Progress(io.StringIO())
    for done in (100, 200, 300, 400):
        progress.share("EASE", done, 400)
        now[0] += 4
    said = progress.stream.getvalue().splitlines()  # type: ignore[attr-defined]
    assert said == ["EASE: 300 of 400 users  3 s left"]


def test_programs_and_studies_hear_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook shows a bar and a study one line: neither may swallow what the results lack."""
    monkeypatch.setattr(simulation, "estimate_cost", lambda name, *_: Cost(700 if name == "ease" else 1, 1))
    asked = ["model=popularity", "evaluation.baselines=[popularity,ease]", f"output={tmp_path}"]
    settings, folder = new_run(load([*FREE, *asked, "name=silent"]))
    with pytest.warns(UserWarning, match="EASE, pooled data is left out"):
        Simulation(settings, folder, progress=SilentProgress()).simulate()
    stream, shown = io.StringIO(), io.StringIO()
    seen = StudyProgress(1, shown)
    settings, folder = new_run(load([*FREE, *asked, "name=told"]))
    Simulation(settings, folder, progress=Told(stream)).simulate()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    remarks = [event["text"] for event in told if event["event"] == "remark"]
    assert len(remarks) == 1 and remarks[0].startswith("EASE, pooled data is left out: about 12 min")
    for name in ("one", "two"):
        seen.remark(f"study/trials/{name}", remarks[0])
    assert shown.getvalue() == f"one: {remarks[0]}\n"
