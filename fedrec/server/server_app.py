"""What the Flower ServerApp does with a grid: a simulation, or a run that `fedrec server start` prepared."""

import shlex
import sys
from pathlib import Path

from fedrec.federated.exchange import Transport
from fedrec.ops import processes
from fedrec.report.console import Progress
from fedrec.server.deployment import Deployment
from fedrec.server.directory import Mail
from fedrec.server.home import ServerHome
from fedrec.server.runs import FAILED, TOLD
from fedrec.simulation import resumed_run, run_job


def run_on_simulated_nodes(transport: Transport, overrides: str) -> None:
    """Run what the overrides, quoted as in a shell, ask for, as `fedrec simulate` would."""
    run_job(shlex.split(overrides), None, lambda parts: transport, json_only=False)


def run_on_devices(transport: Mail, path: Path) -> None:
    """Carry out the run that `fedrec server start` prepared; what goes on is told in its folder."""
    settings, folder = resumed_run(str(path))
    with (path / TOLD).open("a") as told:
        progress = Progress(told)
        try:
            with processes.only_one(folder.checkpoints, "this run"):
                Deployment(settings, folder, ServerHome.at(None), transport, progress).carry_out()
        except Exception as error:
            print(f"{FAILED}{error}", file=told, flush=True)
            print(f"fedrec: {error}", file=sys.stderr)
            raise
