"""The Flower ClientApp: unpacks a message, lets the node answer it, packs the reply."""

import logging
from functools import cache
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp

from fedrec import messages
from fedrec.device.backend import NodeProtocol, make_simulated_node
from fedrec.device.consent.consent import ConsentGuard
from fedrec.device.device import Device
from fedrec.device.home import Home
from fedrec.errors import FedrecError

app = ClientApp()


@cache
def node(index: int, parts: int, engine: str) -> NodeProtocol:
    """Return this process' node: part `index` of `parts` of a simulated population."""
    return make_simulated_node(engine, index, parts)


def answering(config: UserConfig) -> NodeProtocol:
    """Return who answers here, by Flower's node configuration: a real device's home, or a shard of a simulation.

    With `policy`, simulated devices ask theirs first; a real device always does.
    """
    if "home" in config:
        return Device(Home(Path(str(config["home"]))))
    place = int(config["partition-id"]), int(config["num-partitions"])
    found = node(*place, str(config.get("engine", "auto")))
    ledgers = str(config["ledgers"]) if "ledgers" in config else None
    return ConsentGuard.of(found, str(config["policy"]), ledgers) if "policy" in config else found


def answer(message: Message, context: Context) -> Message:
    """Return the reply to any kind of message."""
    try:
        request = messages.unpack(message.content["fedrec"]["message"].data)
        reply = answering(context.node_config).answer(request)
    except FedrecError as error:
        reply = messages.Message({"error": str(error)})
    except Exception as error:  # whatever breaks one node must not break the run
        logging.getLogger(__name__).exception("this node could not answer")
        reply = messages.Message({"error": f"{type(error).__name__} on the node; its log says more"})
    data = messages.pack(reply)
    array = Array(dtype="uint8", shape=(len(data),), stype="safetensors", data=data)
    return Message(RecordDict({"fedrec": ArrayRecord({"message": array})}), reply_to=message)


@app.query()
def hello(message: Message, context: Context) -> Message:
    """Say which devices live here, or take the catalogue."""
    return answer(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Let the devices asked for contribute."""
    return answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on the devices asked for."""
    return answer(message, context)
