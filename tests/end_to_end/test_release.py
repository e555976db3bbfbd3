"""What leaves a node and what the server makes of it: counted by the head, bounded, and nothing exact beside it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import FedrecError
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.federated.node import Node
from fedrec.federated.state import load_released_state
from fedrec.messages import Message
from tests.support.packed import largest, worth_of
from tests.support.tiny import SMALL, session, small

USER = [*SMALL, "privacy=user", "model=mf", "model.dim=4"]


class Replies(LocalTransport):
    """Keeps what nodes answer to training, `greedy` with the largest numbers that they could send in its place."""

    def __init__(self, greedy: bool = False) -> None:
        super().__init__(4)
        self.greedy, self.kept = greedy, list[Message]()

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        for node, reply in super().request(requests, deadline_seconds):
            if requests[node].header["kind"] == "train":
                reply = largest(reply) if self.greedy else reply
                self.kept.append(reply)
            yield node, reply


def length(arrays: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays.values())))


def test_a_node_answers_within_one_clip_a_device_however_much_each_holds(tmp_path: Path) -> None:
    """Weights are 1: a device with many interactions moves the sum by no more than one with few."""
    experiment, dataset = small("rounds=1", "privacy.clip=0.01", base=USER)
    nodes = Replies()
    with session(experiment, dataset, tmp_path, nodes) as opened:
        assert len(list(run(opened))) == 1
        shapes = experiment.algorithm.shapes(load_released_state(opened)[1])
    assert len(nodes.kept) == 4 and sum(reply.header["count"] for reply in nodes.kept) == 40
    for reply in nodes.kept:
        sent = worth_of(reply, experiment.mechanism, shapes)
        assert 0 < length(sent) <= 0.01 * reply.header["count"] * (1 + 1e-5)


def test_a_node_that_sends_more_than_its_devices_may_is_cut_back(tmp_path: Path) -> None:
    experiment, dataset = small("rounds=1", "privacy.clip=0.01", "algorithm=fedavg", base=USER)
    with session(experiment, dataset, tmp_path, Replies(greedy=True)) as opened:
        before = experiment.algorithm.init(experiment.build_model(dataset.catalogue), dataset.catalogue)
        list(run(opened))
        after = load_released_state(opened)[1]
        moved = length({name: after[name] - before[name] for name in after})
        noise = experiment.mechanism.noise_multiplier * 0.01 / 40 * sum(a.size for a in after.values()) ** 0.5  # type: ignore[attr-defined]
    assert moved < 0.01 + 1.5 * noise


@pytest.mark.parametrize("exact", [False, True])
def test_only_simulated_devices_tell_their_loss(exact: bool, tmp_path: Path) -> None:
    experiment, dataset = small("rounds=1", base=USER)
    nodes = Replies()
    nodes._nodes = {1: Node(0, 1, exact=exact)}
    with session(experiment, dataset, tmp_path, nodes) as opened, suppress(FedrecError):
        list(run(opened))  # without exact answers, an evaluation is refused
    (reply,) = nodes.kept
    assert ({"loss", "examples"} <= reply.header.keys()) == exact


def test_the_public_lines_tell_nothing_exact(tmp_path: Path) -> None:
    experiment, dataset = small("rounds=2", "cohort.size=20", "evaluation.every=1", base=USER)
    with session(experiment, dataset, tmp_path) as opened:
        rounds = list(run(opened))
    public = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    exact = [json.loads(line) for line in (tmp_path / "exact" / "rounds.jsonl").read_text().splitlines()]
    for line, full, report in zip(public, exact, rounds, strict=True):
        assert full["loss"] == report.loss is not None and full["answered"] == report.answered
        hidden = ("answered", "rejected", "loss", "validation", "bytes_down", "bytes_up")
        assert all(line[key] is None for key in hidden) and line["cohort"] == 20


def test_a_lost_round_of_correlated_noise_is_left_out(tmp_path: Path) -> None:
    """Each row of the matrix is noised once: a round that was charged and lost is never played again."""
    banded = [*SMALL, "privacy=banded", "model=mf", "model.dim=4"]
    experiment, dataset = small("rounds=4", "cohort.size=20", base=banded)
    with session(experiment, dataset, tmp_path) as opened:
        opened.ledger.reserve(1)  # and killed here
    with session(experiment, dataset, tmp_path) as opened:
        assert [report.round for report in run(opened)] == [2, 3, 4]


def test_many_devices_at_once_send_as_much_noise_as_one_by_one(tmp_path: Path) -> None:
    """Every row of the sum holds the noise of every step of every device, whoever read it."""
    noisy = [*SMALL, "privacy=interaction", "privacy.epsilon=0.5", "privacy.local_steps=3", "model=mf", "model.dim=16"]
    spread = dict[str, np.ndarray]()
    for engine in ("auto", "reference"):
        experiment, dataset = small("rounds=1", f"engine={engine}", base=noisy)
        nodes = Replies()
        with session(experiment, dataset, tmp_path / engine, nodes, run=engine) as opened:
            list(run(opened))
        spread[engine] = np.sum([reply.arrays["item.weight"] for reply in nodes.kept], axis=0).std(axis=1)
    assert spread["auto"].mean() == pytest.approx(spread["reference"].mean(), rel=0.1)
    assert spread["auto"].min() > 0.4 * spread["reference"].mean()
