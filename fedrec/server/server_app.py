"""What the Flower ServerApp does with a grid: a simulation, or a run that `fedrec server start` prepared."""

import os
import shlex
import sys
from pathlib import Path

from fedrec.experiment.automatic import load_chosen
from fedrec.experiment.settings import validate
from fedrec.federated.exchange import Transport
from fedrec.ops import processes
from fedrec.report.console import Progress, result
from fedrec.server.deployment import Deployment
from fedrec.server.directory import Mail
from fedrec.server.home import ServerHome
from fedrec.server.runs import FAILED, TOLD
from fedrec.simulation import Simulation, new_run, resumed_run


def run_on_simulated_nodes(transport: Transport, overrides: str) -> None:
    """Run what the overrides, quoted as in a shell, ask for, as `fedrec simulate` would."""
    settings, folder = new_run(validate(load_chosen(shlex.split(overrides))))
    values = Simulation(settings, folder, lambda: transport).simulate()
    print(result(values, folder.path, sys.stdout))


def run_on_devices(transport: Mail, path: Path) -> None:
    """Carry out the run that `fedrec server start` prepared; what goes on is told in its folder."""
    settings, folder = resumed_run(str(path))
    with open(os.open(path / TOLD, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as told:
        progress = Progress(told)
        try:
            with processes.only_one(folder.checkpoints, "this run"):
                Deployment(settings, folder, ServerHome.at(None), transport, progress).carry_out()
        except Exception as error:
            print(f"{FAILED}{error}", file=told, flush=True)
            print(f"fedrec: {error}", file=sys.stderr)
            raise
