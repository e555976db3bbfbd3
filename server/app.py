"""The Flower ServerApp: compose the experiment, run it on the grid's nodes, report."""

import shlex

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec import cli
from server.nodes import FlowerNodes

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what `-c 'overrides="..."'` asks for; results lie in the run folder, as with `fedrec simulate`."""
    overrides = shlex.split(str(context.run_config.get("overrides", "")))
    cli.run_job(overrides, None, lambda parts: FlowerNodes(grid), json_only=False)
