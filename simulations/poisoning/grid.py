"""Two nodes in this process: one of honest devices, one of hostile ones, which the server can't tell apart."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrec.data.dataset import Dataset
from fedrec.experiment.experiment import Experiment
from fedrec.federated.node import Node
from fedrec.messages import Message, ModelUpdate
from fedrec.privacy.release import Release, written
from simulations.poisoning.attacks import Attack, Knowledge

HONEST, HOSTILE = 1, 2


class HostileGrid:
    """Devices `hostile` send what `attack` says for `target`; all others train. All can be evaluated."""

    def __init__(self, dataset: Dataset, hostile: NDArray[np.int64], attack: Attack, target: int) -> None:
        self._node, self._attack, self._target = Node(0, 1, exact=True), attack, target
        self._catalogue = dataset.catalogue
        self._rows = {HONEST: np.setdiff1d(np.arange(len(dataset.devices)), hostile), HOSTILE: hostile}

    def ids(self) -> list[int]:
        """Return the nodes that host somebody."""
        return [node for node, rows in self._rows.items() if len(rows)]

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        """Answer the requests in order, those that finish in time."""
        end = time.monotonic() + deadline_seconds
        for node, request in requests.items():
            reply = self._answer(node, request)
            if time.monotonic() <= end:
                yield node, reply

    def _answer(self, node: int, request: Message) -> Message:
        kind = request.header["kind"]
        if node == HOSTILE and kind == "train":
            return self._poisoned(request)
        reply = self._node.answer(request)
        return replace(reply, arrays={"devices": self._rows[node]}) if kind == "hello" else reply

    def _poisoned(self, request: Message) -> Message:
        """Return the sum over the hostile devices that were asked: each sends the same."""
        header, experiment = request.header, Experiment.from_json(request.header["experiment"])
        clip = experiment.mechanism.clip or 1.0
        algorithm = experiment.algorithm.with_catalogue(self._catalogue)
        known = Knowledge(algorithm, request.arrays, self._target, clip, experiment.seed + header["round"])
        count = len(header["devices"])
        arrays = {name: (count * array).astype(np.float32) for name, array in self._attack(known).items()}
        mechanism = experiment.mechanism.with_round_params(header.get("privacy", {}))
        grid, sent = mechanism.grid({name: array.shape for name, array in arrays.items()}), ModelUpdate(arrays, count)
        if grid is None:
            reply = written(sent, mechanism)
        else:
            whole = {name: np.rint(array / grid.step).astype(np.int64) for name, array in arrays.items()}
            reply = written(Release(whole, count, grid), mechanism)
        echo = {key: header[key] for key in ("protocol", "run", "round", "hash")}
        return Message({**echo, **reply.header}, reply.arrays)
