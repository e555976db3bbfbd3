"""Real devices without processes: each with its home, its key and its store, on the in-process grid."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Context, RecordDict

from fedrec.cli.data import hand_out
from fedrec.data.io.csv_files import read_device_file
from fedrec.device.client_app import make_client_app
from fedrec.device.home import Enrolment, Home, enroll
from fedrec.device.store import Event
from fedrec.experiment.settings import load
from fedrec.flower.transport import FlowerTransport, InProcessGrid
from fedrec.report.console import Progress
from fedrec.server.deployment import Deployment
from fedrec.server.home import Registry, ServerHome
from fedrec.server.runs import completed
from fedrec.simulation import new_run, resumed_run
from fedrec.storage.run_folder import RunFolder
from tests.support.tiny import SMALL

WILLING = """[privacy]
trust = ["server", "none"]
largest_share_per_request = 1.0
[participation]
idle = false
charging = false
unmetered = false
"""
RUN = ["dataset=devices", "model=mf", "model.dim=4", "privacy=none", "rounds=3"]


class Homes(InProcessGrid):
    """A grid whose nodes are real devices."""

    def __init__(self, homes: Sequence[Home]) -> None:
        super().__init__(make_client_app(), len(homes))
        for number, home in enumerate(homes, 1):
            self._contexts[number] = Context(1, number, {"home": str(home.path)}, RecordDict(), {})


@dataclass
class Village:
    """Some devices with data of a synthetic data set, and their server."""

    path: Path
    devices: int = 3
    engine: str = "auto"
    run: Sequence[str] = tuple(RUN)
    homes: list[Home] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files, self.server = self.path / "files", ServerHome(self.path / "server")
        hand_out(load(SMALL).experiment.dataset.load(), self.devices, self.files)
        for number in range(1, self.devices + 1):
            self.homes.append(self.settle(number))

    def settle(self, number: int) -> Home:
        """Enroll a device, give it its data, admit it."""
        home = Home(self.path / f"device-{number}")
        enroll(home, Enrolment("127.0.0.1:1", None, self.engine), None)
        home.policy.write_text(WILLING)
        store = home.store()
        rows = read_device_file(self.files / f"{number}.csv")
        store.log_events(Event(row.item, row.time, row.kind, row.value) for row in rows)
        store.close()
        Registry(self.server).admit(home.public_key.read_bytes())
        return home

    def overrides(self, *more: str) -> list[str]:
        return [*self.run, f"dataset.path={self.files / 'items.csv'}", f"output={self.path / 'runs'}", *more]

    def prepare(self, *more: str) -> RunFolder:
        document = completed(self.server, load(self.overrides(*more)).document)
        return new_run(type(load([]))(document), simulated=False)[1]

    def deployment(self, folder: RunFolder, homes: Sequence[Home] | None = None) -> Deployment:
        self.told = io.StringIO()
        settings, _ = resumed_run(str(folder.path))
        nodes = FlowerTransport(Homes(self.homes if homes is None else homes))
        return Deployment(settings, folder, self.server, nodes, Progress(self.told))
