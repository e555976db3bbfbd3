"""What every kind of nodes promises the round loop, and what of Flower's insides the in-process grid leans on."""

import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from fedrec.data.dataset import Dataset
from fedrec.device.client_app import make_client_app
from fedrec.experiment.experiment import Experiment
from fedrec.federated.exchange import LocalTransport, Transport, base_header, hosted_by
from fedrec.flower.codec import decode_reply
from fedrec.flower.transport import FlowerTransport, InProcessGrid
from fedrec.messages import PROTOCOL, Arrays, Message, pack, validate_reply
from tests.support.tiny import small

ROOT = Path(__file__).parents[2]
MODEL = ["model=mf", "model.dim=2", "algorithm.epochs=1", "dataset.users=17"]
KINDS: dict[str, Callable[[int], Transport]] = {
    "plain loop": LocalTransport,
    "in-process grid": lambda parts: FlowerTransport(InProcessGrid(make_client_app(), parts)),
    "without torch": lambda parts: FlowerTransport(InProcessGrid(make_client_app(), parts, ["light"])),
    "some without torch": lambda parts: FlowerTransport(InProcessGrid(make_client_app(), parts, ["light", "torch"])),
}
LONG = 600.0


@pytest.fixture(scope="module")
def trial() -> tuple[Experiment, Dataset]:
    return small(*MODEL)


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[int], Transport]:
    return KINDS[request.param]


@pytest.fixture
def header(trial: tuple[Experiment, Dataset], tmp_path: Path) -> dict[str, Any]:
    return {**base_header(trial[0], "run", str(tmp_path / "private")), "part": "train"}


def first(trial: tuple[Experiment, Dataset]) -> Arrays:
    experiment, dataset = trial
    state = experiment.algorithm.init(experiment.build_model(dataset.catalogue), dataset.catalogue)
    return experiment.algorithm.broadcast(state)


def hosted(nodes: Transport, header: dict[str, Any]) -> dict[int, list[int]]:
    hello = {node: Message({**header, "kind": "hello", "devices": []}) for node in nodes.ids()}
    return {node: list(hosted_by(reply, node)) for node, reply in nodes.request(hello, LONG)}


def requests(
    kind: str, devices: dict[int, list[int]], header: dict[str, Any], arrays: Arrays, **more: Any
) -> dict[int, Message]:
    return {n: Message({**header, "kind": kind, "devices": d, **more}, arrays) for n, d in devices.items()}


@pytest.mark.parametrize("parts", [1, 3, 17, 20])
def test_every_device_lives_on_exactly_one_node(
    make: Callable[[int], Transport], trial: tuple[Experiment, Dataset], header: dict[str, Any], parts: int
) -> None:
    nodes = make(parts)
    hello = {node: Message({**header, "kind": "hello", "devices": []}) for node in nodes.ids()}
    replies = dict(nodes.request(hello, LONG))
    assert replies.keys() == hello.keys()
    everyone = np.concatenate([hosted_by(reply, node) for node, reply in replies.items()])
    assert sorted(everyone.tolist()) == list(range(trial[1].interactions.users))
    for reply in replies.values():
        assert reply.header["fedrec"] == version("fedrec") and reply.header["protocol"] == PROTOCOL


def test_training_echoes_the_request_and_sums_over_who_was_asked(
    make: Callable[[int], Transport], trial: tuple[Experiment, Dataset], header: dict[str, Any]
) -> None:
    nodes, sent = make(3), first(trial)
    asked = {node: devices[:-1] for node, devices in hosted(nodes, header).items()}
    for number in (1, 2):
        trained = requests("train", asked, header, sent, round=number)
        replies = dict(nodes.request(trained, LONG))
        assert replies.keys() == asked.keys()
        for node, reply in replies.items():
            echo = {key: reply.header[key] for key in ("protocol", "run", "round", "hash")}
            assert echo == {"protocol": PROTOCOL, "run": "run", "round": number, "hash": trial[0].hash}
            assert reply.header["count"] == len(asked[node]) > 0
            validate_reply(
                reply, trained[node].header, trial[0].algorithm.shapes(sent), trial[0].algorithm.float64_arrays
            )
            assert reply.header["examples"] == sum(len(trial[1].devices[u].history) for u in asked[node])
            assert any(np.abs(array).max() > 0 for array in reply.arrays.values())


def test_the_kinds_answer_alike(trial: tuple[Experiment, Dataset], header: dict[str, Any], tmp_path: Path) -> None:
    found = list[dict[int, Message]]()
    for place, build in enumerate(KINDS.values()):
        nodes, own = build(3), {**header, "folder": str(tmp_path / str(place))}
        found.append(dict(nodes.request(requests("train", hosted(nodes, own), own, first(trial), round=1), LONG)))
    for node, reply in found[0].items():
        assert reply.header == found[1][node].header
        assert all(np.array_equal(array, found[1][node].arrays[name]) for name, array in reply.arrays.items())
        for light in (found[2][node], found[3][node]):
            assert light.header == {**reply.header, "loss": pytest.approx(reply.header["loss"], rel=1e-6)}
            for name, array in reply.arrays.items():
                np.testing.assert_allclose(light.arrays[name], array, atol=1e-6)


def test_devices_go_on_from_what_they_kept_and_a_repeated_round_gives_the_same(
    make: Callable[[int], Transport], trial: tuple[Experiment, Dataset], header: dict[str, Any], tmp_path: Path
) -> None:
    nodes = make(1)
    devices = hosted(nodes, header)

    def trained(number: int, folder: str) -> Arrays:
        own = {**header, "folder": str(tmp_path / folder)}
        return dict(nodes.request(requests("train", devices, own, first(trial), round=number), LONG))[1].arrays

    trained(1, "both rounds")
    second = trained(2, "both rounds")
    again, alone = trained(2, "both rounds"), trained(2, "second round only")
    assert all(np.array_equal(again[name], array) for name, array in second.items())
    assert any(not np.array_equal(alone[name], array) for name, array in second.items())


@pytest.mark.parametrize("part", ["validation", "test"])
def test_evaluation_gives_one_row_for_each_device_asked_that_holds_something_out(
    make: Callable[[int], Transport], trial: tuple[Experiment, Dataset], header: dict[str, Any], part: str
) -> None:
    nodes, devices = make(2), trial[1].devices
    asked = {node: users[::2] for node, users in hosted(nodes, header).items()}
    replies = dict(nodes.request(requests("evaluate", asked, header, first(trial), part=part, round=0), LONG))
    for node, users in asked.items():
        bytes_in_flight = [u for u in users if len(devices[u].test if part == "test" else devices[u].validation)]
        assert replies[node].arrays["user"].tolist() == bytes_in_flight
        assert replies[node].header["count"] == len(bytes_in_flight) > 0
        assert all(len(column) == len(bytes_in_flight) for column in replies[node].arrays.values())


def test_a_device_with_nothing_held_out_gives_no_row(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("user,item,time\n" + "".join(f"{u},{i},{i}\n" for u in "abc" for i in range(4)) + "loner,1,1\n")
    trial = small(base=["dataset=csv", f"dataset.path={path}", "privacy=none", *MODEL[:3]])
    header = {**base_header(trial[0], "run", str(tmp_path / "private")), "part": "refit"}
    for build in KINDS.values():
        nodes = build(1)
        asked = requests("evaluate", hosted(nodes, header), header, first(trial), part="test", round=1)
        reply = dict(nodes.request(asked, LONG))[nodes.ids()[0]]
        names = trial[1].interactions.user_ids[reply.arrays["user"]].tolist()
        assert names == ["a", "b", "c"] and reply.header["count"] == 3


def asked_by_flower() -> FlowerMessage:
    InProcessGrid(make_client_app(), 1)
    return FlowerMessage(RecordDict(), dst_node_id=1, message_type="train")


def flower(content: RecordDict) -> FlowerMessage:
    return FlowerMessage(content, reply_to=asked_by_flower())


def carrying(data: bytes, record: str = "fedrec", name: str = "message") -> FlowerMessage:
    array = Array(dtype="uint8", shape=(len(data),), stype="safetensors", data=data)
    return flower(RecordDict({record: ArrayRecord({name: array})}))


WHOLE = pack(Message({"count": 1, "error_free": True}, {"a": np.ones(3, np.float32)}))
GARBAGE: dict[str, Callable[[], FlowerMessage]] = {
    "no records": lambda: flower(RecordDict()),
    "another record": lambda: carrying(WHOLE, record="other"),
    "another array": lambda: carrying(WHOLE, name="other"),
    "no arrays in the record": lambda: flower(RecordDict({"fedrec": ArrayRecord()})),
    "settings for arrays": lambda: flower(RecordDict({"fedrec": ConfigRecord({"message": WHOLE})})),
    "metrics for arrays": lambda: flower(RecordDict({"fedrec": MetricRecord({"message": 0.5})})),
    "no bytes": lambda: carrying(b""),
    "truncated": lambda: carrying(WHOLE[:-1]),
    "truncated in its own header": lambda: carrying(WHOLE[:20]),
    "more than it says": lambda: carrying(WHOLE + b"\x00"),
    "text": lambda: carrying(b"internal server error"),
    "a header that is a list": lambda: carrying(pack(Message([1, 2]))),  # type: ignore[arg-type]
    "Flower's own error": lambda: FlowerMessage(Error(0, "the app crashed"), reply_to=asked_by_flower()),
    "an error without a reason": lambda: FlowerMessage(Error(1), reply_to=asked_by_flower()),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_no_message_of_ours_becomes_an_error_in_the_header(kind: str) -> None:
    made = decode_reply(GARBAGE[kind]())
    assert list(made.header) == ["error"] and made.header["error"] and not made.arrays
    assert isinstance(made.header["error"], str) and len(made.header["error"]) < 200


def test_what_flower_says_is_passed_on_and_a_message_of_ours_is_read() -> None:
    assert "the app crashed" in decode_reply(GARBAGE["Flower's own error"]()).header["error"]
    whole = decode_reply(carrying(WHOLE))
    assert whole.header == {"count": 1, "error_free": True} and whole.arrays["a"].tolist() == [1, 1, 1]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_no_bytes_make_a_reply_raise(noise: bytes, place: int, value: int) -> None:
    damaged = WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :]
    for data in (noise, WHOLE[:place] + noise, damaged):
        assert isinstance(decode_reply(carrying(data)), Message)


def test_garbage_from_one_node_leaves_the_others_answers(header: dict[str, Any]) -> None:
    class Spoiled(InProcessGrid):
        def pull_messages(self, message_ids: Any) -> Any:
            for reply in super().pull_messages(message_ids):
                yield reply if reply.metadata.src_node_id != 2 else FlowerMessage(RecordDict(), reply_to=self.asked)

        def push_messages(self, messages: Any) -> Any:
            kept = list(messages)
            names = super().push_messages(kept)
            self.asked = next(m for m in kept if m.metadata.dst_node_id == 2)
            return names

    nodes = FlowerTransport(Spoiled(make_client_app(), 3))
    hello = {node: Message({**header, "kind": "hello", "devices": []}) for node in nodes.ids()}
    replies = dict(nodes.request(hello, LONG))
    assert replies.keys() == {1, 2, 3}
    assert [node for node, reply in replies.items() if "error" in reply.header] == [2]


@pytest.fixture
def unset() -> Any:
    """Take the identity of the task away, as in a process that Flower did not start."""
    kept = {name: getattr(TaskIdentity, name, None) for name in ("_run_id", "_node_id", "_task_id")}
    for name in kept:
        setattr(TaskIdentity, name, None)
    yield
    for name, value in kept.items():
        setattr(TaskIdentity, name, value)


@pytest.mark.usefixtures("unset")
def test_the_installed_flower_still_asks_for_the_identity_that_the_grid_sets() -> None:
    """If Message() no longer needs it, simulations/grid.py may stop setting it; if it moved, no message can be made."""
    with pytest.raises(RuntimeError):
        FlowerMessage(RecordDict(), dst_node_id=1, message_type="train")
    message = asked_by_flower()
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (1, 1, 1)
    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.dst_node_id) == (1, 1, 1)


def test_the_installed_flower_still_keeps_a_messages_name_where_the_grid_writes_it() -> None:
    message = asked_by_flower()
    assert "_message_id" in message.metadata.__dict__ and message.metadata.message_id == ""
    (name,) = InProcessGrid(make_client_app(), 1).push_messages([message])
    assert message.metadata.message_id == name
    assert FlowerMessage(RecordDict(), reply_to=message).metadata.reply_to_message_id == name


def test_the_installed_flower_lies_within_its_pin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [
        *project["dependencies"],
        *project["optional-dependencies"]["ray"],
        *project["optional-dependencies"]["dev"],
    ]
    pins = [Requirement(text).specifier for text in named if Requirement(text).name == "flwr"]
    assert len(pins) == 3 and len(set(pins)) == 1
    assert version("flwr") in pins[0] and any(one.operator == "<" for one in pins[0])
