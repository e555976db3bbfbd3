"""What the ServerApp does with a grid: a simulation by its overrides, or a run that a server prepared."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedrec.device.client_app import make_client_app
from fedrec.errors import FedrecError
from fedrec.flower.transport import FlowerTransport, InProcessGrid
from fedrec.ops import processes
from fedrec.report.console import Progress
from fedrec.server import server_app
from fedrec.server.runs import FAILED, TOLD
from fedrec.storage.run_folder import RunFolder
from tests.support.devices import Village
from tests.support.tiny import FREE


def test_a_simulation_is_what_its_overrides_say_quoted_as_in_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "with spaces"
    overrides = [*FREE, "model=popularity", "evaluation.baselines=[]", "name=flower", f"'output={output}'"]
    server_app.run_on_simulated_nodes(FlowerTransport(InProcessGrid(make_client_app(), 2)), " ".join(overrides))
    found = json.loads((output / "flower" / "metrics.json").read_text())
    assert found["model"] == "popularity" and found["dataset"]["users"] == 40
    assert str(output / "flower") in capsys.readouterr().out


def test_a_mistake_in_them_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match=r"Did you mean 'model\.dim'"):
        server_app.run_on_simulated_nodes(FlowerTransport(InProcessGrid(make_client_app(), 1)), "model=mf model.dmi=3")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return Village(tmp_path, devices=1).prepare("name=real").path


def test_what_breaks_a_run_on_devices_is_told_in_its_folder_and_raised(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __init__(self, *arguments: Any) -> None:
            self.progress: Progress = arguments[-1]

        def carry_out(self) -> None:
            self.progress.note("round 1")
            raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(server_app, "Deployment", Broken)
    (prepared / TOLD).write_text("from before\n")
    with pytest.raises(ZeroDivisionError):
        server_app.run_on_devices(FlowerTransport(InProcessGrid(make_client_app(), 1)), prepared)
    assert (prepared / TOLD).read_text() == f"from before\nround 1\n{FAILED}division by zero\n"
    assert capsys.readouterr().err == "fedrec: division by zero\n"


def test_a_run_is_carried_out_by_one_process_alone(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_app, "Deployment", lambda *_: pytest.fail("carried out"))
    nodes = FlowerTransport(InProcessGrid(make_client_app(), 1))
    again = pytest.raises(FedrecError, match="this run is up already")
    with processes.only_one(RunFolder(prepared).checkpoints, "this run"), again:
        server_app.run_on_devices(nodes, prepared)
    assert "this run is up already" in (prepared / TOLD).read_text()


class FailingGrid(InProcessGrid):
    """Knows its nodes once the SuperLink has said so many times that it failed."""

    def __init__(self, failures: int, status: int) -> None:
        super().__init__(make_client_app(), 2)
        request = httpx.Request("POST", "https://localhost/v1/runtime/get-nodes")
        response = httpx.Response(status, request=request)
        self._failures = [httpx.HTTPStatusError("failed", request=request, response=response)] * failures

    def get_node_ids(self) -> Iterable[int]:
        if self._failures:
            raise self._failures.pop()
        return super().get_node_ids()


def test_a_superlink_that_fails_once_ends_no_run() -> None:
    assert FlowerTransport(FailingGrid(2, 500)).ids() == [1, 2]
    with pytest.raises(httpx.HTTPStatusError):
        FlowerTransport(FailingGrid(10**6, 500), 0.5).ids()
    with pytest.raises(httpx.HTTPStatusError):
        FlowerTransport(FailingGrid(1, 401)).ids()
