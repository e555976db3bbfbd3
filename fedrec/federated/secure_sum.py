"""A round's sum by the true messages of `fedrec.secure`, over the nodes of a simulation: `privacy.secure=real`.

What leaves a simulated device is what would leave a real one. The sum is that of `privacy.secure=ideal`, to the bit.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.experiment.experiment import Experiment
from fedrec.federated.exchange import ExpectedUpdate, GatherResult, NodeDirectory
from fedrec.federated.secure_devices import Payloads, make_terms, model_hash, payloads_of, with_payloads
from fedrec.messages import Arrays, Message, RejectedReplyError
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.mechanisms.user_secure import UserSecure
from fedrec.rng import Stream
from fedrec.secure.attempt import Phase
from fedrec.secure.server import LostSumError, SecureServer

REPLY_BYTES = 1 << 40  # of simulated nodes: whatever their devices' messages take


def plays_messages(mechanism: Mechanism) -> bool:
    """Say whether a simulation of this mechanism plays the messages of the protocol."""
    return isinstance(mechanism, UserSecure) and mechanism.secure == "real"


@dataclass(frozen=True, slots=True)
class SecureRound:
    """What one round asks: of the `drawn` devices, those not `present` leave before their vector arrives."""

    experiment: Experiment
    plan: TrainingPlan
    header: dict[str, Any]  # run, round, attempt, numbers, and what the mechanism announces
    broadcast: Arrays
    drawn: NDArray[np.int64]
    present: NDArray[np.int64]

    def leaving(self) -> dict[int, Phase]:
        """Return the phase in which each device that leaves stops answering.

        As many of those whose vectors arrive leave after that, as `cohort.dropout` has it: their vectors count.
        """
        key = (self.experiment.seed, self.header["round"], Stream.DROPOUT, 1)
        random = np.random.default_rng(np.random.SeedSequence(key))
        gone = np.setdiff1d(self.drawn, self.present)
        before = zip(gone.tolist(), random.integers(Phase.KEYS, Phase.VECTOR, len(gone), endpoint=True), strict=True)
        late = self.present[random.random(len(self.present)) < self.experiment.cohort.dropout]
        after = zip(late.tolist(), random.integers(Phase.CONFIRM, Phase.UNMASK, len(late), endpoint=True), strict=True)
        return {row: Phase(int(phase)) for row, phase in (*before, *after)}


def gather_securely(
    directory: NodeDirectory, asked: SecureRound, expected: ExpectedUpdate, deadline: float
) -> GatherResult:
    """Play the messages of a round and return the one sum that the server learns: of nobody where it can't be had."""
    server = SecureServer(make_terms(asked.experiment, asked.plan, asked.header), model_hash(asked.broadcast))
    rejected, leaving, moved = dict[int, str](), asked.leaving(), [0, 0]
    end, form = time.monotonic() + deadline, expected.form
    try:
        for phase in Phase:
            wanted = dict.fromkeys(asked.drawn.tolist(), b"") if phase == Phase.KEYS else dict(server.requests())
            there = {row: content for row, content in wanted.items() if leaving.get(row, phase + 1) > phase}
            requests = dict(_requests(directory, asked, phase, there))
            moved[0] += sum(request.bytes for request in requests.values())
            for node, reply in directory.nodes.request(requests, end - time.monotonic(), REPLY_BYTES):
                moved[1] += reply.bytes
                rejected |= _received(server, node, reply)
            server.close()
        if form is None:
            raise FedrecError("a secure sum is one of whole numbers")
        total = expected.total([form.of_sum(server.total(), server.count)])
    except (LostSumError, RejectedReplyError) as reason:
        rejected |= dict.fromkeys(directory.hosted, str(reason))
        total = expected.total(())
    return GatherResult(total, rejected, None, moved[0], moved[1])


def _requests(
    directory: NodeDirectory, asked: SecureRound, phase: Phase, payloads: Payloads
) -> Iterator[tuple[int, Message]]:
    """Yield the request of each node: the model goes out with that for vectors."""
    arrays = asked.broadcast if phase == Phase.VECTOR else {}
    rows = np.array(sorted(payloads), np.int64)
    for node, message in directory.requests("secure", rows, arrays, **asked.header, phase=int(phase)).items():
        yield node, with_payloads(message, payloads)


def _received(server: SecureServer, node: int, reply: Message) -> dict[int, str]:
    """Let the server take what a node's devices answered; return what was wrong, by node."""
    if "error" in reply.header:
        return {node: f"the node reported an error: {reply.header['error']}"}
    try:
        for row, content in payloads_of(reply).items():
            server.receive(row, content)
    except RejectedReplyError as reason:
        return {node: str(reason)}
    refused = reply.header.get("refused")
    return {node: f"a device refused: {refused}"} if refused else {}
