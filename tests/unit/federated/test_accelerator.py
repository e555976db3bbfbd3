"""No code assumes a CPU: whole runs on a device that can't be mixed with it give the same numbers.

Stands in for CUDA where there is none; what it can't show is CUDA's own arithmetic and speed.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedrec.experiment import experiment
from fedrec.experiment.settings import load
from fedrec.federated.exchange import LocalTransport
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, new_run
from tests.support.chance import drawn_for, fresh
from tests.support.elsewhere import NAME, There, elsewhere

REFERENCE = "engine=reference"
RUNS = [
    ["model=mf", "privacy=none"],
    ["model=mf", "privacy=none", REFERENCE],
    ["model=mf", "privacy=none", "model.warm_start=words"],
    ["model=mf", "privacy=interaction", REFERENCE],
    ["model=mf", "privacy=gateway", "privacy.clip=0.1"],
    ["model=mf", "privacy=banded", "cohort.size=4", "rounds=4"],
    ["model=neumf", "privacy=interaction", "engine=vectorized"],
    ["model=neumf", "privacy=user", "privacy.clipping=split"],
    ["model=content", "privacy=interaction"],
    ["model=content", "privacy=user_local", REFERENCE],
    ["model=pfedrec", "privacy=none"],
    ["model=sasrec", "privacy=none"],
    ["model=sasrec", "privacy=user_adaptive"],
    ["model=sasrec", "privacy=none", REFERENCE],
    ["model=text_sasrec", "privacy=none", "model.encoder=words"],
    ["model=two_tower", "privacy=user", "model.encoder=words"],
    ["model=ease", "privacy=user"],
    ["model=ials", "privacy=none"],
    ["model=hybrid", "privacy=user"],
    ["model=order", "privacy=user"],
]


def results(overrides: list[str], folder: Path, device: str) -> Any:
    """Return what a short run comes to, with the same noise whatever the device."""
    base = ["dataset=synthetic", "dataset.users=12", "dataset.items=30", "rounds=2", "evaluation.baselines=[]"]
    place = [f"output={folder}", f"name={device}", f"accelerator={device}"]
    with drawn_for("the same on every device"), elsewhere():
        settings, run = new_run(load([*base, *overrides, *place]))
        values = Simulation(settings, run, lambda: LocalTransport(1), Progress()).simulate()
    return values["validation"], values["test"]


@pytest.mark.parametrize("overrides", RUNS, ids=" ".join)
def test_a_run_elsewhere_gives_the_same_numbers(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fresh() and "privacy=none" not in overrides:
        pytest.skip("noise drawn afresh is not the same twice")
    monkeypatch.setattr(experiment, "accelerator", str)
    there = results(overrides, tmp_path, NAME)
    assert there == results(overrides, tmp_path, "cpu") and there[1]["full"]["ndcg@10"] > 0


def test_what_is_elsewhere_can_not_be_mixed_or_read_as_an_array() -> None:
    with elsewhere():
        there = torch.ones(3).to(NAME)
        assert isinstance(there, There) and there.cpu().tolist() == [1, 1, 1]
        assert isinstance(torch.nn.Linear(3, 2).to(NAME)(there), There)
        with pytest.raises(RuntimeError, match="same device"):
            _ = there + torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            torch.nn.functional.embedding(torch.zeros(2, dtype=torch.long), torch.ones(2, 2).to(NAME))
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        here = torch.zeros(3)
        here.copy_(there)
        assert here.tolist() == [1, 1, 1] and not isinstance(here, There)
