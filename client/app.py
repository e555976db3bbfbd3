"""The Flower ClientApp: what a node does, on a real device and in a simulation alike.

Every message is one fedrec message (`fedrec.messages`), carried as bytes. `answer` decodes it, lets the node carry it
out and encodes the reply. The node (`fedrec.federated.node` with torch, `fedrec.numpy_engine` without) lets each device
that was asked for contribute, bounds and noises what it contributes (`fedrec.privacy`), and answers with the sum alone.
"""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.device.client_app import answer

app = ClientApp()


@app.query()
def hello(message: Message, context: Context) -> Message:
    """Say which devices live here, or take the catalogue of items."""
    return answer(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Let the devices of the cohort that live here contribute; only their sum leaves the node."""
    return answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Rank on the devices asked for: exactly in a simulation, with their consent on real ones."""
    return answer(message, context)
