"""The Flower ServerApp: a run on simulated nodes, or on the devices of the server that started it."""

import shlex
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.cli import main as cli
from fedrec.flower.transport import FlowerTransport
from fedrec.ops import processes
from fedrec.report.console import Progress

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what `-c 'overrides="..."'` asks for, as `fedrec simulate` would; or the prepared run of `resume`."""
    prepared = str(context.run_config.get("resume", ""))
    if prepared:
        deploy(FlowerTransport(grid), Path(prepared))
        return
    overrides = shlex.split(str(context.run_config.get("overrides", "")))
    cli.run_job(overrides, None, lambda parts: FlowerTransport(grid), json_only=False)


def deploy(nodes: FlowerTransport, path: Path) -> None:
    """Carry out the run that `fedrec server start` prepared; what goes on is told in its folder."""
    from fedrec.server.deployment import Deployment
    from fedrec.server.home import ServerHome
    from fedrec.server.runs import FAILED, TOLD
    from fedrec.simulation import resumed_run

    settings, folder = resumed_run(str(path))
    with (path / TOLD).open("a") as told:
        progress = Progress(told)
        try:
            with processes.only_one(folder.checkpoints, "this run"):
                Deployment(settings, folder, ServerHome.at(None), nodes, progress).carry_out()
        except Exception as error:
            print(f"{FAILED}{error}", file=told, flush=True)
            print(f"fedrec: {error}", file=sys.stderr)
            raise
