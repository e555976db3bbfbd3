"""Plays a game through the real rounds: reserve, draw, train, clip, sum, noise, step, checkpoint, commit."""

import json
import os
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.audit.hearing import Heard, hear_replies, hear_state
from fedrec.audit.threat_model import PULL, ThreatModel
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.federated.exchange import ExpectedUpdate
from fedrec.federated.loop import run_round
from fedrec.federated.node import Node
from fedrec.federated.state import RunContext, ServerState, initial_state, open_run_context
from fedrec.messages import Message, pack
from fedrec.privacy.accounting.composition import Composition
from fedrec.privacy.grid import Whole
from fedrec.privacy.kept_release import read_releases
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.storage.run_folder import RunFolder, load_checkpoint

TRAINING = {"_target_": "fedrec.algorithms.fedavg.FedAvg", "learning_rate": 1.0, "batch_size": 1 << 30}
COUNTING = {"_target_": "fedrec.algorithms.item_counts.ItemCounts"}
SIGNED = {"_target_": "fedrec.audit.threat_model.SignedCounts"}
COUNTED = {"_target_": "fedrec.models.popularity.Popularity", "_partial_": True}


@dataclass(frozen=True, slots=True)
class AdversaryView:
    """What an adversary saw and what was said to be spent.

    `observations[rounds, nodes, items]` is weighted by the mechanism's matched filter: its sum over the rounds is the
    score. `whole` are the whole numbers that the first round released [nodes, items], None in floating point; of all
    `numbers`, `impossible` are so under either world. `hosted` are the devices that are canaries.
    """

    observations: NDArray[np.float64]
    hosted: NDArray[np.int64]
    epsilon: float
    delta: float
    spent: Composition
    whole: Whole | None
    numbers: int
    impossible: int


class EavesdroppedNode:
    """A node that the rounds know as several, each with a group of the devices; its packed replies are overheard."""

    def __init__(self, groups: Sequence[NDArray[np.int64]]) -> None:
        self._node, self._groups = Node(0, 1, exact=True), groups
        self.captured: dict[int, bytes] = {}

    def ids(self) -> list[int]:
        """Return 1 to the number of groups."""
        return list(range(1, len(self._groups) + 1))

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        """Answer each request, and keep the bytes of what was trained."""
        greeting: Message | None = None
        for number, request in requests.items():
            hello = request.header["kind"] == "hello"
            reply = greeting if hello and greeting else self._node.answer(request)
            if hello:
                greeting = reply
                reply = Message(reply.header, {"devices": self._groups[number - 1]})
            else:
                self.captured[number] = pack(reply)
            yield number, reply


def staged(document: Mapping[str, Any], game: ThreatModel, rounds: int, trains: bool) -> Experiment:
    """Return the calibrated experiment of a game: the document's mechanism and cohort, on canaries."""
    own = document["privacy"]
    pull = PULL * float(own.get("clip", 1.0)) if "epsilon" in own else 1.0
    dense = own.get("clipping") == "split"
    model = {"_target_": "fedrec.audit.threat_model.CanaryModel", "_partial_": True, "pull": pull, "dense": dense}
    changes = {
        "dataset": game.source(),
        "model": model if trains else COUNTED,
        "algorithm": TRAINING if trains else SIGNED if game.signed else COUNTING,
        "rounds": rounds,
    }
    experiment = Experiment.from_json(json.dumps({**document, **changes}))
    return experiment.calibrated(load_dataset(experiment))


def observe(document: Mapping[str, Any], game: ThreatModel, rounds: int, trains: bool) -> AdversaryView:
    """Play every round and return what the adversary saw of them, and what the ledger says."""
    experiment = staged(document, game, rounds, trains)
    dataset = load_dataset(experiment)
    plan = experiment.plan(dataset)
    hosted, others = hosts(experiment.mechanism, plan, game)
    nodes = EavesdroppedNode(in_groups(np.union1d(hosted, others), 1 if game.alone else None))
    with tempfile.TemporaryDirectory() as name, own_state(name):
        folder = RunFolder(Path(name) / "run")
        folder.create("{}\n")
        ledger = Ledger.open("canaries", "run", experiment.mechanism, plan, plan.population, None)
        context = open_run_context(experiment, dataset, nodes, folder, ledger, "train")
        heard = list(listen(context, nodes, game))
        seen = AdversaryView(
            observations=np.stack([one.values for one in heard]),
            hosted=hosted,
            epsilon=ledger.epsilon(),
            delta=ledger.account.delta,
            spent=ledger.total,
            whole=heard[0].whole,
            numbers=sum(one.values.size for one in heard),
            impossible=sum(one.impossible for one in heard),
        )
        ledger.close()
    return seen


def in_groups(devices: NDArray[np.int64], size: int | None) -> list[NDArray[np.int64]]:
    """Return the devices in groups of `size`, the last perhaps smaller; in one where it is None."""
    return [devices] if size is None else [devices[start : start + size] for start in range(0, len(devices), size)]


def hosts(mechanism: Mechanism, plan: TrainingPlan, game: ThreatModel) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the devices that are canaries, and others that only keep the rounds going."""
    if game.turns == 1:
        return np.arange(game.devices), np.arange(0)
    groups = [mechanism.sample_cohort(plan, number, mechanism.random(0)) for number in range(1, game.turns + 1)]
    return groups[0], np.array([group[0] for group in groups[1:]])


def listen(context: RunContext, nodes: EavesdroppedNode, game: ThreatModel) -> Iterator[Heard]:
    """Play the rounds; yield what is heard of each, weighted, from the bytes that were released."""
    at, plan, mechanism = initial_state(context), context.plan, context.experiment.mechanism
    for number in range(1, plan.rounds + 1):
        now = mechanism.with_round_params(mechanism.round_params(at.mechanism_state))
        weight, now = now.matched_filter(plan)[number - 1], now.in_round(plan, number)
        context.ledger.reserve(number)
        nodes.captured.clear()
        run_round(context, at, number)
        before, at = at, durable(context)
        if game.observes == "reply":
            replies = [nodes.captured.get(node) for node in nodes.ids()]
            asked = ExpectedUpdate(now, context.experiment.algorithm.shapes(before.algorithm_state))
            heard = hear_replies(replies, asked, game.items)
        else:
            heard = hear_state(context, before, at, list(read_releases(context.folder.kept_releases())))
        yield replace(heard, values=heard.values * weight)


def durable(context: RunContext) -> ServerState:
    """Return what the server has, as it lies on disk."""
    saved = load_checkpoint(context.folder.checkpoints)
    if saved is None:
        raise FedrecError("the round left no checkpoint: nothing to audit")
    return ServerState(saved.state, saved.mechanism_state)


@contextmanager
def own_state(folder: str) -> Generator[None]:
    """Keep the ledger of canaries, which are nobody, apart from those of users."""
    before = os.environ.get("FEDREC_STATE")
    os.environ["FEDREC_STATE"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["FEDREC_STATE"]
        else:
            os.environ["FEDREC_STATE"] = before
