"""One exchange with all nodes: who hosts which devices, the requests, and the replies that count.

A node hosts every n-th row of a population, or rows that it lists.

Where devices are: the protocol of the round loop's other side, and the plain loop without Flower.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.evaluation.per_user import PerUserResults, join
from fedrec.experiment.experiment import Experiment
from fedrec.federated.node import Node
from fedrec.messages import (
    PROTOCOL,
    TOO_LARGE,
    AbsentReplyError,
    Arrays,
    FailedReply,
    Message,
    ModelUpdate,
    RejectedReplyError,
    reply_bytes,
    total,
    validate_header,
    validate_reply,
)
from fedrec.privacy.guarantee import Trust
from fedrec.privacy.mechanisms.protocol import Mechanism
from fedrec.privacy.release import GRID, Release, Released, ReplyForm, total_of


class Transport(Protocol):
    """Some nodes, each with some devices."""

    def ids(self) -> list[int]:
        """Return the names of the nodes that are there now, ascending."""
        ...

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        """Send each node its request and yield (node, reply) as they come; what comes after the deadline is left out.

        A reply of more than `reply_bytes` is a failure, and is not held.
        A node that fails yields a reply whose header holds "error", or, in this process, raises what went wrong.
        """
        ...


class LocalTransport:
    """`parts` nodes in this process, asked one after the other: the round loop without Flower."""

    def __init__(self, parts: int = 1) -> None:
        self._nodes = {index + 1: Node(index, parts, exact=True) for index in range(parts)}

    def ids(self) -> list[int]:
        """Return 1 to `parts`."""
        return list(self._nodes)

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        """Answer the requests in order, those that finish in time."""
        end = time.monotonic() + deadline_seconds
        for node, request in requests.items():
            reply = self._nodes[node].answer(request)
            if time.monotonic() <= end:
                yield node, reply if reply.bytes <= reply_bytes else FailedReply.of(TOO_LARGE)


Hosted = NDArray[np.int64] | range
NOBODY = 1 << 62


def hosted_by(reply: Message, node: int) -> Hosted:
    """Return the devices that a node's hello names: those it lists, else its "range" (first, end, step)."""
    if "devices" in reply.arrays:
        return reply.arrays["devices"].astype(np.int64)
    said = reply.header.get("range")
    numbers = cast(list[Any], said) if isinstance(said, list) else []
    if len(numbers) != 3 or not all(type(n) is int and 0 <= n < NOBODY for n in numbers) or numbers[2] < 1:
        raise FedrecError(f"node {node} does not say which devices it hosts")
    return range(*cast(list[int], numbers))


def intersect(hosted: Hosted, devices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of the devices (ascending), ascending, that are hosted: for a range, without going through it.

    Rows are looked up in the devices, not merged with them: with a node a device, that would take their number squared.
    """
    if isinstance(hosted, np.ndarray):
        rows = np.unique(hosted)
        place = np.minimum(np.searchsorted(devices, rows), len(devices) - 1)
        return rows[devices[place] == rows] if len(devices) else rows[:0]
    inside = (devices >= hosted.start) & (devices < hosted.stop) & ((devices - hosted.start) % hosted.step == 0)
    return np.unique(devices[inside])


def first_row(hosted: Hosted) -> int:
    """Return the first row, a number above all rows where there is none."""
    return int(hosted.min(initial=NOBODY)) if isinstance(hosted, np.ndarray) else next(iter(hosted), NOBODY)


def are_disjoint(hosted: Sequence[Hosted]) -> bool:
    """Say whether no device is hosted twice."""
    ranges = [rows for rows in hosted if isinstance(rows, range) and len(rows)]
    if len(ranges) == sum(len(rows) > 0 for rows in hosted) and len({rows.step for rows in ranges}) <= 1:
        return _cosets_disjoint(ranges)
    everyone = np.concatenate([np.asarray(rows, np.int64) for rows in hosted])
    return len(np.unique(everyone)) == len(everyone)


def _cosets_disjoint(ranges: list[range]) -> bool:
    """Say whether ranges of one step share no row: those that meet the same rows end before the next begins."""
    order = sorted(ranges, key=lambda rows: (rows.start % rows.step, rows.start))
    return all(one.start % one.step != two.start % two.step or one[-1] < two.start for one, two in pairwise(order))


HELLO_SECONDS = 600.0
EVALUATE_SECONDS, EXACT_BYTES = 3600.0, 1 << 40  # of simulated nodes: whatever their rows take


@dataclass(frozen=True, slots=True)
class GatherResult:
    """What a round brought: the sum, who was turned away and why, the exact loss, and the bytes moved."""

    total: Released
    rejected: dict[int, str]
    loss: float | None
    bytes_down: int
    bytes_up: int
    faults: frozenset[int] = frozenset()  # those of the rejected that no honest device causes


@dataclass(frozen=True, slots=True)
class NodeDirectory:
    """Which node hosts which devices, and the header that every request of a run starts from."""

    nodes: Transport
    hosted: dict[int, Hosted]
    header: dict[str, Any]
    simulated: bool = True  # then a failure of every node is a mistake; of real devices it is a bad hour
    faulty: dict[int, str] = field(default_factory=dict[int, str])  # rows set aside for the run, and why

    def set_aside(self, faults: Mapping[int, str]) -> None:
        """Ask nodes that answered with a fault no more; in a simulation they are the experimenter's own."""

    def requests(self, kind: str, devices: NDArray[np.int64], arrays: Arrays, **more: Any) -> dict[int, Message]:
        """Return one request for each node that hosts some of the devices."""
        ascending = np.unique(devices)
        found = {node: intersect(rows, ascending) for node, rows in self.hosted.items()}
        return {
            node: Message({**self.header, "kind": kind, "devices": rows.tolist(), **more}, arrays)
            for node, rows in found.items()
            if len(rows)
        }


def base_header(experiment: Experiment, run: str, folder: str) -> dict[str, Any]:
    """Return what every message of a run carries; `folder` is where simulated devices keep their private arrays."""
    return {
        "protocol": PROTOCOL,
        "run": run,
        "round": 0,
        "experiment": experiment.document,
        "hash": experiment.hash,
        "folder": folder,
    }


def discover_nodes(nodes: Transport, header: dict[str, Any]) -> NodeDirectory:
    """Ask every node which devices it hosts; a node with another version of fedrec is an error that names it."""
    requests = {node: Message({**header, "kind": "hello", "devices": []}) for node in nodes.ids()}
    hosted = dict[int, Hosted]()
    for node, reply in nodes.request(requests, HELLO_SECONDS):
        if "error" in reply.header:
            raise FedrecError(f"node {node} can't take part: {reply.header['error']}")
        if reply.header.get("fedrec") != version("fedrec"):
            raise FedrecError(f"node {node} runs fedrec {reply.header.get('fedrec')}, the server {version('fedrec')}")
        hosted[node] = hosted_by(reply, node)
    if not hosted:
        raise FedrecError("no node answered; start one, or use the in-process grid (fedrec simulate)")
    if not are_disjoint(list(hosted.values())):
        raise FedrecError("two nodes say that they host the same device")
    # Flower names nodes at random; ordered by their devices, sums come out the same on every grid.
    return NodeDirectory(nodes, dict(sorted(hosted.items(), key=lambda pair: first_row(pair[1]))), header)


@dataclass(frozen=True, slots=True)
class ExpectedUpdate:
    """What an update of a round must be to count, by mechanism and the algorithm's shapes, and how much of it does.

    `clip_items` returns what counts of a node's sum before the mechanism's own bound. Arrays named in `float64_arrays`
    may come in double precision. One that is longer than `largest_norm` of its count is rejected, where that is given.
    """

    mechanism: Mechanism
    algorithm_shapes: Mapping[str, tuple[int, ...]]
    clip_items: Callable[[Released], Released] = lambda total: total
    float64_arrays: frozenset[str] = frozenset()
    largest_norm: Callable[[int], float] | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what is sent."""
        return self.mechanism.shapes(dict(self.algorithm_shapes))

    @property
    def form(self) -> ReplyForm | None:
        """How whole numbers are packed; None where floating point is sent."""
        mechanism, grid = self.mechanism, self.mechanism.grid(self.shapes)
        return None if grid is None else ReplyForm(self.shapes, grid, lambda count: mechanism.reach(count, grid))

    def reply_bytes(self, requests: Mapping[int, Message]) -> int:
        """Return how large a reply to any of the requests can be."""
        form = self.form
        if form is None:
            return reply_bytes(self.shapes, self.float64_arrays)
        most = max((len(request.header["devices"]) for request in requests.values()), default=0)
        return form.most_bytes(most) + reply_bytes({})

    def check(self, reply: Message, asked: Message, exact: bool) -> Released:
        """Return the update of a reply; raise `RejectedReplyError` where it is not one that was asked for."""
        form = self.form
        if form is None:
            validate_reply(reply, asked.header, self.shapes, self.float64_arrays, exact)
            update: Released = ModelUpdate(reply.arrays, reply.header["count"])
        else:
            validate_header(reply, asked.header, exact, (GRID,))
            update = form.unpack(reply)
        if self.largest_norm is not None and not update.norm() <= self.largest_norm(update.count):
            raise RejectedReplyError("the update is larger than the mechanism allows")
        return update

    def total(self, updates: Iterable[Released]) -> Released:
        """Return the sum of what counts of the updates, in their order; zeros where there is none."""
        form = self.form
        if form is not None and self.mechanism.terms.trust == Trust.SUMS:  # no part of the sum is anybody's to look at
            updates = (total_of((Release.nothing(self.shapes, form.grid), *updates)),)
        counted = (self.mechanism.clip_node_sum(self.clip_items(update)) for update in updates)
        if form is None:
            like = {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}
            return total((cast(ModelUpdate, update) for update in counted), like)
        return total_of((Release.nothing(self.shapes, form.grid), *counted))


def gather_updates(
    directory: NodeDirectory, requests: Mapping[int, Message], expected: ExpectedUpdate, deadline: float
) -> GatherResult:
    """Send the requests and sum the updates of valid replies, in order of `hosted`; name those that are turned away."""
    good, rejected, faults = dict[int, Released](), dict[int, str](), set[int]()
    told, bytes_up = list[Message](), 0
    for node, reply in directory.nodes.request(requests, deadline, expected.reply_bytes(requests)):
        bytes_up += reply.bytes
        try:
            if node not in requests:
                raise RejectedReplyError("the node was not asked")
            if node in good or node in rejected:
                raise RejectedReplyError("the node answered twice")
            good[node] = expected.check(reply, requests[node], directory.simulated)
            told.append(reply)
        except RejectedReplyError as reason:
            if node in good:
                continue
            rejected.setdefault(node, str(reason))
            if node in requests and not isinstance(reason, AbsentReplyError):
                faults.add(node)
    late = requests.keys() - good.keys() - rejected.keys()
    return GatherResult(
        expected.total(good[node] for node in directory.hosted if node in good),
        rejected | {node: "no answer before the deadline" for node in requests if node in late},
        mean_loss(told),
        sum(request.bytes for request in requests.values()),
        bytes_up,
        frozenset(faults),
    )


def mean_loss(replies: Iterable[Message]) -> float | None:
    """Return the exact loss per example, where the nodes are simulated and gave one."""
    pairs = [(reply.header.get("loss"), reply.header.get("examples")) for reply in replies]
    examples = sum(cast(int, count) for _, count in pairs if count)
    return sum(cast(float, loss) for loss, count in pairs if count) / examples if examples else None


def evaluate(
    directory: NodeDirectory, devices: NDArray[np.int64], arrays: Arrays, part: str, **more: Any
) -> PerUserResults:
    """Return the per-user rows of an evaluation on the devices: simulations only.

    `more` goes into the header: the round after which to evaluate, and where the private arrays of that round lie.
    """
    requests = directory.requests("evaluate", devices, arrays, part=part, **more)
    tables = dict[int, PerUserResults]()
    for node, reply in directory.nodes.request(requests, EVALUATE_SECONDS, EXACT_BYTES):
        if "error" in reply.header:
            raise FedrecError(f"node {node} could not evaluate: {reply.header['error']}")
        tables[node] = reply.arrays
    if len(tables) < len(requests):
        raise FedrecError(f"nodes {sorted(requests.keys() - tables.keys())} did not answer the evaluation")
    return join([tables[node] for node in directory.hosted if node in tables])
