"""Invariant I12: ids planted in the data appear in no message, checkpoint, ledger, metric, line or log."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fedrec.cli.main import main
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import load
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.flower.transport import FlowerTransport, InProcessGrid
from fedrec.messages import Message, pack
from fedrec.paths import state_dir
from tests.support.tiny import session

USER, ITEM = b"canary-user", b"canary-item"
PUBLIC = {"catalogue.parquet"}  # the list of items is public, and told to be


class Wire(LocalTransport):
    """Keeps every byte that passes."""

    def __init__(self) -> None:
        super().__init__(3)
        self.bytes = b""

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        self.bytes += b"".join(map(pack, requests.values()))
        for node, reply in super().request(requests, deadline_seconds):
            self.bytes += pack(reply)
            yield node, reply


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    path = tmp_path / "log.csv"
    lines = [f"canary-user-{u},canary-item-{(u * 7 + n * n) % 30},{n}" for u in range(25) for n in range(8)]
    path.write_text("user,item,time\n" + "\n".join(lines) + "\n")
    return ["dataset=csv", f"dataset.path={path}", "model=mf", "model.dim=2", "rounds=2", "evaluation.baselines=[]"]


def found(folder: Path) -> set[tuple[str, bytes]]:
    """Return (file, id) of every file that holds a planted id."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in PUBLIC]
    assert files
    return {(path.name, word) for path in files for word in (USER, ITEM) if word in path.read_bytes()}


@pytest.mark.parametrize("privacy", ["none", "user", "interaction"])
def test_no_message_checkpoint_or_ledger_holds_an_id(
    tmp_path: Path, settings: list[str], privacy: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    experiment = load([*settings, f"privacy={privacy}"]).experiment
    dataset = load_dataset(experiment)
    wire = Wire()
    with session(experiment.calibrated(dataset), dataset, tmp_path / "run", wire) as opened:
        reports = list(run(opened))
    assert len(reports) == 2 and len(wire.bytes) > 1000
    assert USER not in wire.bytes and ITEM not in wire.bytes
    assert not found(tmp_path / "run") and not found(state_dir())
    assert "canary" not in caplog.text


def test_the_whole_command_keeps_them_out_of_files_and_screen(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["simulate", *settings, "privacy=user", f"output={tmp_path}/runs", "name=one"])
    printed = capsys.readouterr()
    assert "canary" not in printed.out + printed.err
    assert {path.name for path in (tmp_path / "runs" / "one").iterdir()} > {"metrics.json", "privacy_card.md"}
    assert {hit for hit in found(tmp_path / "runs")} <= set() and not found(state_dir())


def test_what_breaks_on_a_node_is_told_without_its_words(
    tmp_path: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception may hold anything of the data; the server hears its kind (invariant I14)."""
    from fedrec.device.client_app import make_client_app
    from fedrec.federated.node import Node

    def breaks(self: Node, *anything: object) -> Message:
        if self.index == 1:
            raise RuntimeError("canary-user-7 likes canary-item-3")
        return honest(self, *anything)  # type: ignore[arg-type]

    honest = Node._train
    monkeypatch.setattr(Node, "_train", breaks)
    experiment = load([*settings, "privacy=user"]).experiment
    dataset = load_dataset(experiment)
    nodes = FlowerTransport(InProcessGrid(make_client_app(), 3, ("torch",)))
    with session(experiment.calibrated(dataset), dataset, tmp_path / "run", nodes) as opened:
        reports = list(run(opened))
    assert [set(report.rejected) for report in reports] == [{2}, {2}]
    assert "RuntimeError on the node" in reports[0].rejected[2] and "canary" not in str(reports)
    assert not found(tmp_path / "run")


def test_a_planted_leak_is_found(tmp_path: Path, settings: list[str]) -> None:
    """The positive control: an id in a message's header, and one in a checkpoint's notes."""
    experiment = load([*settings, "privacy=user"]).experiment
    dataset = load_dataset(experiment)
    wire = Wire()
    with session(experiment.calibrated(dataset), dataset, tmp_path / "run", wire) as opened:
        opened.directory.header["note"] = "canary-user-1"
        list(run(opened))
    assert USER in wire.bytes
    (tmp_path / "run" / "rounds.jsonl").open("a").write("canary-item-2\n")
    assert found(tmp_path / "run") == {("rounds.jsonl", ITEM)}
