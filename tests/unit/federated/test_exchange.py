"""What the server makes of replies: whoever is turned away is named, and no device's update counts twice."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from fedrec.errors import FedrecError
from fedrec.federated.exchange import (
    ExpectedUpdate,
    NodeDirectory,
    discover_nodes,
    evaluate,
    gather_updates,
    mean_loss,
)
from fedrec.messages import Message, ModelUpdate
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.release import Release, Released, worth

HEADER = {"protocol": 1, "run": "r", "round": 3, "hash": "h"}
SHAPES = {"w": (2,)}


@dataclass
class Told:
    """Nodes that say what they are told to say, and remember what they were asked."""

    replies: list[tuple[int, Message]]
    asked: list[Mapping[int, Message]] = field(default_factory=list)

    def ids(self) -> list[int]:
        return sorted({node for node, _ in self.replies})

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        self.asked.append(requests)
        yield from self.replies


def reply(value: float, count: int = 1, **more: Any) -> Message:
    return Message({**HEADER, "count": count, **more}, {"w": np.full(2, value, np.float32)})


def collected(*replies: tuple[int, Message], hosted: dict[int, Any] | None = None) -> Any:
    directory = NodeDirectory(Told(list(replies)), hosted or {1: range(0, 4, 2), 2: range(1, 4, 2)}, HEADER)
    requests = directory.requests("train", np.array([3, 0, 1, 2]), {"w": np.zeros(2, np.float32)})
    return gather_updates(directory, requests, ExpectedUpdate(NoPrivacy(), SHAPES), 9.0)


def test_requests_name_the_devices_of_each_node_and_nobody_else_is_asked() -> None:
    directory = NodeDirectory(Told([]), {1: range(0, 4, 2), 2: range(1, 4, 2), 3: range(4, 9)}, HEADER)
    found = directory.requests("train", np.array([3, 0, 3]), {}, part="train")
    assert {node: request.header["devices"] for node, request in found.items()} == {1: [0], 2: [3]}
    assert found[1].header["kind"] == "train" and found[1].header["part"] == "train"
    assert found[1].header["run"] == "r"


def test_a_second_answer_of_a_node_counts_for_nothing_and_takes_nothing_away() -> None:
    found = collected((1, reply(1.0)), (1, reply(5.0)), (2, reply(10.0, count=2)))
    assert found.total.arrays["w"].tolist() == [11.0, 11.0] and found.total.count == 3
    assert found.rejected == {}


def test_a_good_answer_after_a_bad_one_comes_too_late() -> None:
    """Which of the two is the node's own, nobody can tell."""
    found = collected((1, reply(1.0, round=2)), (1, reply(5.0)), (2, reply(10.0)))
    assert found.total.arrays["w"].tolist() == [10.0, 10.0] and found.total.count == 1
    assert found.rejected == {1: "round is not that of the request"}


def test_who_was_not_asked_and_who_did_not_answer_are_named() -> None:
    found = collected((2, reply(10.0)), (7, reply(5.0)))
    assert found.total.arrays["w"].tolist() == [10.0, 10.0]
    assert found.rejected == {7: "the node was not asked", 1: "no answer before the deadline"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Message({**HEADER, "error": "no\ndisk"}), "the node reported an error: no disk"),
        (reply(np.nan), "w is not finite"),
        (Message({**HEADER, "count": 1}, {"w": np.zeros(3, np.float32)}), "w"),
        (Message({**HEADER, "count": 1}, {"v": np.zeros(2, np.float32)}), "array names are not those of the model"),
        (reply(1.0, count=3), "count is not a number of the devices asked"),
    ],
)
def test_what_is_wrong_with_an_answer_is_kept_and_the_rest_is_summed(wrong: Message, said: str) -> None:
    found = collected((1, wrong), (2, reply(10.0)))
    assert found.total.arrays["w"].tolist() == [10.0, 10.0] and list(found.rejected) == [1]
    assert found.rejected[1].startswith(said)


def test_nobody_at_all_is_a_sum_of_zeros() -> None:
    found = collected()
    assert found.total.arrays["w"].tolist() == [0.0, 0.0] and found.total.count == 0 and found.loss is None
    assert found.bytes_up == 0 and found.bytes_down > 0 and sorted(found.rejected) == [1, 2]


def test_every_byte_counts_also_of_those_who_are_turned_away() -> None:
    good, bad = reply(1.0), reply(np.nan)
    found = collected((1, bad), (2, good))
    assert found.bytes_up == good.bytes + bad.bytes


def test_what_is_admitted_is_what_the_mechanism_lets_in() -> None:
    directory = NodeDirectory(Told([(1, reply(4.0))]), {1: range(2)}, HEADER)
    requests = directory.requests("train", np.array([0, 1]), {})
    found = gather_updates(directory, requests, ExpectedUpdate(Quarters(), SHAPES), 9.0)
    assert found.total.arrays["w"].tolist() == [1.0, 1.0]


class Quarters(NoPrivacy):
    """Lets a quarter of a node's sum in."""

    def clip_node_sum(self, total: Released) -> Released:
        return ModelUpdate({"w": worth(total)["w"] / np.float32(4)}, total.count)


def test_whole_numbers_are_read_bounded_and_summed() -> None:
    """Of one device that claims the most that it may in both numbers, the server lets one clip count."""
    mechanism = UserLevel(clip=0.5, noise_multiplier=1.0)
    asked = ExpectedUpdate(mechanism, SHAPES)
    form = asked.form
    assert form is not None and form.grid == Grid(12, 0.5)
    honest, greedy = (
        form.pack(Release({"w": np.array(numbers)}, 1, form.grid)) for numbers in ([100, -7], [4096, 4096])
    )
    directory = NodeDirectory(
        Told([(n, Message({**HEADER, **m.header}, m.arrays)) for n, m in ((1, honest), (2, greedy), (3, honest))]),
        {n: range(n, 9, 9) for n in (1, 2, 3)},
        HEADER,
    )
    requests = directory.requests("train", np.array([1, 2, 3]), {})
    found = gather_updates(directory, requests, asked, 9.0)
    assert found.rejected == {} and found.total.count == 3
    assert found.total.arrays["w"].tolist() == [200 + 2896, -14 + 2896]
    floats = NodeDirectory(Told([(1, reply(0.1))]), {1: range(2)}, HEADER)
    assert gather_updates(floats, requests, asked, 9.0).rejected[1] == "grid is not that of the mechanism"


def test_the_loss_is_a_mean_over_examples_of_those_who_tell() -> None:
    said = [reply(0, loss=6.0, examples=3), reply(0, loss=2.0, examples=1), reply(0), reply(0, loss=9.0, examples=0)]
    assert mean_loss(said) == 2.0
    assert mean_loss(said[2:]) is None


def hello(node: int, first: int, end: int, **more: Any) -> tuple[int, Message]:
    return node, Message({"fedrec": version("fedrec"), "range": [first, end, 1], **more})


def test_nodes_are_ordered_by_their_devices_whatever_they_are_called() -> None:
    told = Told([hello(9, 0, 2), hello(4, 5, 8), hello(5, 2, 5)])
    assert list(discover_nodes(told, HEADER).hosted) == [9, 5, 4]
    assert {request.header["kind"] for request in told.asked[0].values()} == {"hello"}
    assert all(request.header["devices"] == [] for request in told.asked[0].values())


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ([], "no node answered; start one, or use the in-process grid (fedrec simulate)"),
        ([hello(1, 0, 3), hello(2, 2, 4)], "two nodes say that they host the same device"),
        ([hello(1, 0, 3, fedrec="0.0.1")], f"node 1 runs fedrec 0.0.1, the server {version('fedrec')}"),
        ([(3, Message({"error": "wrong key"}))], "node 3 can't take part: wrong key"),
    ],
)
def test_nodes_with_which_no_run_can_begin(replies: list[tuple[int, Message]], said: str) -> None:
    with pytest.raises(FedrecError) as error:
        discover_nodes(Told(replies), HEADER)
    assert str(error.value) == said


def rows(users: list[int]) -> Message:
    return Message({}, {"user": np.array(users), "full_hr@10": np.array(users) / 10})


def test_rows_of_all_nodes_are_one_table_by_user() -> None:
    told = Told([(2, rows([1, 3])), (1, rows([0, 2]))])
    directory = NodeDirectory(told, {1: range(0, 4, 2), 2: range(1, 4, 2)}, HEADER)
    found = evaluate(directory, np.arange(4), {}, "test", folder="f")
    assert found["user"].tolist() == [0, 1, 2, 3] and found["full_hr@10"].tolist() == [0, 0.1, 0.2, 0.3]
    header = told.asked[0][1].header
    assert (header["kind"], header["part"], header["folder"]) == ("evaluate", "test", "f")


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ([(1, rows([0, 2]))], "nodes [2] did not answer the evaluation"),
        ([(2, Message({"error": "no model"}))], "node 2 could not evaluate: no model"),
        ([(2, rows([1, 3])), (1, rows([0, 1]))], "a user is in two of the tables to be joined"),
    ],
)
def test_an_evaluation_that_lacks_somebody_is_none(replies: list[tuple[int, Message]], said: str) -> None:
    directory = NodeDirectory(Told(replies), {1: range(0, 4, 2), 2: range(1, 4, 2)}, HEADER)
    with pytest.raises(FedrecError) as error:
        evaluate(directory, np.arange(4), {}, "test")
    assert str(error.value).startswith(said)
