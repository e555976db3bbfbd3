"""What every transport promises the round loop: one answer a request, in time, no larger than asked, of who was asked.

In this process, on Flower's in-process grid, on one that is polled as Ray's is, on one whose replies are measured as
those of real devices are, and where an auditor overhears.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.audit.execution import EavesdroppedNode
from fedrec.data.dataset import Dataset
from fedrec.device.client_app import make_client_app
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import Experiment
from fedrec.federated.exchange import LocalTransport, Transport, base_header, hosted_by
from fedrec.flower import transport as flower_transport
from fedrec.flower.transport import FlowerTransport, InProcessGrid
from fedrec.messages import Message, pack
from tests.support.grids import MeasuredGrid, PollingGrid
from tests.support.tiny import small

USERS, PARTS, LONG = 12, 4, 600.0
GRIDS: dict[str, Callable[[int], Transport]] = {
    "in-process grid": lambda parts: FlowerTransport(InProcessGrid(make_client_app(), parts)),
    "polled grid": lambda parts: FlowerTransport(PollingGrid(make_client_app(), parts)),
    "measured grid": lambda parts: FlowerTransport(MeasuredGrid(make_client_app(), parts)),
}
KINDS: dict[str, Callable[[int], Transport]] = {
    "this process": LocalTransport,
    "overheard": lambda parts: EavesdroppedNode(np.array_split(np.arange(USERS), parts)),
    **GRIDS,
}


@pytest.fixture(scope="module")
def trial() -> tuple[Experiment, Dataset]:
    return small("model=mf", "model.dim=2", f"dataset.users={USERS}")


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_transport, "POLL_SECONDS", 0.001)


@pytest.fixture(params=KINDS)
def nodes(request: pytest.FixtureRequest) -> Transport:
    return KINDS[request.param](PARTS)


@pytest.fixture
def requests(trial: tuple[Experiment, Dataset], tmp_path: Path) -> Callable[..., dict[int, Message]]:
    """`requests(nodes, round)` asks every node to train all its devices."""
    experiment, dataset = trial
    header = {**base_header(experiment, "run", str(tmp_path / "private")), "part": "train"}
    state = experiment.algorithm.init(experiment.build_model(dataset.catalogue), dataset.catalogue)
    sent = experiment.algorithm.broadcast(state)

    def ask(nodes: Transport, number: int = 1) -> dict[int, Message]:
        hello = {node: Message({**header, "kind": "hello", "devices": []}) for node in nodes.ids()}
        hosted = {node: list(hosted_by(reply, node)) for node, reply in nodes.request(hello, LONG)}
        assert sorted(row for rows in hosted.values() for row in rows) == list(range(USERS))
        train: dict[str, Any] = {**header, "kind": "train", "round": number}
        return {node: Message({**train, "devices": [int(r) for r in rows]}, sent) for node, rows in hosted.items()}

    return ask


Ask = Callable[..., dict[int, Message]]


def test_names_ascend_and_stay(nodes: Transport) -> None:
    found = nodes.ids()
    assert len(found) == PARTS and found == sorted(set(found)) == nodes.ids()


def test_every_request_is_answered_once_by_the_node_that_it_went_to(nodes: Transport, requests: Ask) -> None:
    asked = requests(nodes)
    replies = list(nodes.request(asked, LONG))
    assert sorted(node for node, _ in replies) == sorted(asked)
    for node, reply in replies:
        assert reply.header["count"] == len(asked[node].header["devices"]) and reply.header["round"] == 1


def test_whom_nobody_asks_says_nothing(nodes: Transport, requests: Ask) -> None:
    asked = requests(nodes)
    some = {node: asked[node] for node in nodes.ids()[1:3]}
    assert sorted(node for node, _ in nodes.request(some, LONG)) == sorted(some)
    assert list(nodes.request({}, LONG)) == []


def test_what_was_sent_is_as_it_was(nodes: Transport, requests: Ask) -> None:
    asked = requests(nodes)
    before = {node: pack(request) for node, request in asked.items()}
    for _, reply in nodes.request(asked, LONG):
        for array in reply.arrays.values():
            np.array(array)[...] = 7.0  # what came back is the receiver's own
    assert {node: pack(request) for node, request in asked.items()} == before


def test_an_answer_that_came_too_late_never_comes_again(nodes: Transport, requests: Ask) -> None:
    asked = requests(nodes)
    if isinstance(nodes, EavesdroppedNode):
        pytest.skip("an auditor's games know no deadline")
    assert list(nodes.request(asked, 1e-9)) == []
    later = {node: Message({**one.header, "round": 2}, one.arrays) for node, one in asked.items()}
    found = list(nodes.request(later, LONG))
    assert sorted(node for node, _ in found) == sorted(later)
    assert {reply.header["round"] for _, reply in found} == {2}


def test_who_stops_listening_leaves_nothing_behind(nodes: Transport, requests: Ask) -> None:
    """The round loop may end an exchange early: the next one starts from nothing."""
    asked = requests(nodes)
    stopped: Iterator[tuple[int, Message]] = iter(nodes.request(asked, LONG))
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    assert sorted(node for node, _ in nodes.request(asked, LONG)) == sorted(asked)


def test_an_answer_larger_than_asked_for_is_a_failure_by_name(nodes: Transport, requests: Ask) -> None:
    if isinstance(nodes, EavesdroppedNode):
        pytest.skip("an auditor's games measure nothing")
    asked = requests(nodes)
    sizes = {node: len(pack(reply)) for node, reply in nodes.request(asked, LONG)}
    for _, reply in nodes.request(asked, LONG, min(sizes.values()) // 2):
        assert list(reply.header) == ["error"] and "larger than what was asked for" in reply.header["error"]
        assert not reply.arrays
    assert all("error" not in reply.header for _, reply in nodes.request(asked, LONG, max(sizes.values())))


@pytest.mark.parametrize("kind", GRIDS)
def test_over_a_grid_a_node_that_breaks_says_so_and_the_others_answer(kind: str, requests: Ask) -> None:
    nodes = GRIDS[kind](PARTS)
    asked = requests(nodes)
    asked[2] = Message(asked[2].header, {**asked[2].arrays, "nonsense": np.zeros(1, np.float32)})
    replies = dict(nodes.request(asked, LONG))
    assert replies.keys() == asked.keys()
    assert [node for node, reply in replies.items() if "error" in reply.header] == [2]
    assert "nonsense" in replies[2].header["error"] and not replies[2].arrays


def test_in_this_process_what_broke_is_raised(requests: Ask) -> None:
    nodes = LocalTransport(2)
    asked = requests(nodes)
    broken = {1: Message(asked[1].header, {**asked[1].arrays, "nonsense": np.zeros(1, np.float32)})}
    with pytest.raises(FedrecError, match="nonsense"):
        list(nodes.request(broken, LONG))


def test_the_grids_bring_what_this_process_computes(requests: Ask) -> None:
    expected = dict(LocalTransport(PARTS).request(requests(LocalTransport(PARTS)), LONG))
    for kind, build in GRIDS.items():
        nodes = build(PARTS)
        for node, reply in nodes.request(requests(nodes), LONG):
            assert reply.header == expected[node].header, kind
            assert all(np.array_equal(reply.arrays[name], array) for name, array in expected[node].arrays.items())


def test_a_node_that_left_meanwhile_is_a_failure_of_its_own(requests: Ask) -> None:
    class Leaving(InProcessGrid):
        def push_messages(self, messages: Any) -> Any:
            kept = list(messages)
            names = super().push_messages([m for m in kept if m.metadata.dst_node_id != 2])
            left = iter(names)
            return [None if m.metadata.dst_node_id == 2 else next(left) for m in kept]

    nodes = FlowerTransport(Leaving(make_client_app(), PARTS))
    hello = requests(LocalTransport(PARTS))
    replies = dict(nodes.request(hello, LONG))
    assert replies[2].header["error"] == "the node is not there any more"
    assert all("error" not in replies[node].header for node in (1, 3, 4))
