"""The Flower ServerApp: one run, on simulated nodes or on real devices.

The round loop is `fedrec.federated.loop.run`: reserve the round's cost in the ledger, sample a cohort, send requests
over Flower's grid, validate and sum the replies, add the server's noise, step the model, checkpoint, commit.
Flower's own `Strategy.start` is not used: it can't resume, validate replies or account for privacy.
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.flower.transport import FlowerTransport
from fedrec.server.server_app import run_on_devices, run_on_simulated_nodes

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what `flwr run . -c 'overrides="..."'` asks for, or the run on real devices that `resume` names."""
    transport = FlowerTransport(grid)
    if folder := str(context.run_config.get("resume", "")):
        run_on_devices(transport, Path(folder))
    else:
        run_on_simulated_nodes(transport, str(context.run_config.get("overrides", "")))
