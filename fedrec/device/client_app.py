"""What a Flower client app does with a message: decode it, let the node answer, encode the reply.

The node is one shard of a simulated population, or a real device where the node configuration names a `home`.
`client/app.py` is the ClientApp that Flower loads, simulations in this process make the same one here, and real devices
answer in `fedrec/device/process.py`.
"""

from functools import cache
from pathlib import Path

from flwr.app import Context, Message, UserConfig
from flwr.clientapp import ClientApp

from fedrec.device.backend import ConsentGuard, NodeProtocol, make_simulated_node, respond
from fedrec.device.device import Device
from fedrec.device.home import Home
from fedrec.flower import codec


@cache
def simulated_node(index: int, parts: int, engine: str) -> NodeProtocol:
    """Return this process' node: part `index` of `parts` of a simulated population."""
    return make_simulated_node(engine, index, parts)


def open_node(config: UserConfig) -> NodeProtocol:
    """Return who answers here, by Flower's node configuration: a real device's home, or a shard of a simulation.

    With `policy`, simulated devices ask theirs first; a real device always does.
    """
    if "home" in config:
        return Device(Home(Path(str(config["home"]))))
    place = int(config["partition-id"]), int(config["num-partitions"])
    found = simulated_node(*place, str(config.get("engine", "auto")))
    ledgers = str(config["ledgers"]) if "ledgers" in config else None
    return ConsentGuard.of(found, str(config["policy"]), ledgers) if "policy" in config else found


def answer(message: Message, context: Context) -> Message:
    """Answer any kind of message; an error becomes a reply that names it, and never breaks the run."""
    reply = respond(lambda: open_node(context.node_config).answer(codec.decode(message.content)))
    return Message(codec.encode(reply), reply_to=message)


def make_client_app() -> ClientApp:
    """Return the app of `client/app.py`, made from the fedrec that is installed here."""
    app = ClientApp()
    for kind in (app.query, app.train, app.evaluate):
        kind()(answer)
    return app
