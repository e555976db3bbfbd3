"""A round played by the true messages gives the bytes of the ideal sum, or no release."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.device.backend import ConsentGuard
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.experiment import Experiment
from fedrec.experiment.settings import load
from fedrec.federated import secure_devices
from fedrec.federated.exchange import LocalTransport, Transport
from fedrec.federated.loop import run
from fedrec.federated.node import Node
from fedrec.federated.secure_devices import model_hash, payloads_of, with_payloads
from fedrec.federated.state import RoundReport, load_released_state
from fedrec.flower import ray
from fedrec.messages import Arrays, Message
from tests.support.tiny import session, small

BASE = ["dataset=synthetic", "dataset.users=24", "dataset.items=30", "dataset.interactions=400", "privacy=user_secure"]
SEEDED = [*BASE, "privacy.randomness=seeded", "engine=reference"]


def played(path: Path, *overrides: str, nodes: Transport | None = None) -> tuple[list[RoundReport], Arrays]:
    experiment, dataset = small(*overrides, base=SEEDED)
    with session(experiment, dataset, path, nodes, run=path.name) as opened:
        return list(run(opened)), load_released_state(opened)[1]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=popularity", "cohort.dropout=0.15"],
        ["model=mf", "model.dim=2", "rounds=2", "cohort.dropout=0.15"],
        ["model=mf", "model.dim=2", "rounds=2", "cohort.size=16", "privacy.dropped=0.4"],
        ["model=ease"],
        ["model=order", "algorithm.head=20"],
    ],
    ids=["counts with drop-outs", "training with drop-outs", "a sampled cohort", "pairs", "order"],
)
def test_true_messages_give_the_bytes_of_the_ideal_sum(tmp_path: Path, overrides: list[str]) -> None:
    ideal, wanted = played(tmp_path / "ideal", *overrides)
    real, found = played(tmp_path / "real", *overrides, "privacy.secure=real", nodes=LocalTransport(3))
    assert [one.released for one in real] == [one.released for one in ideal] and any(one.released for one in ideal)
    assert [one.answered for one in real if one.released] == [one.answered for one in ideal if one.released]
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert array.tobytes() == found[name].tobytes()


@pytest.mark.parametrize("secure", ["ideal", "real"])
def test_a_round_with_too_few_devices_is_charged_and_releases_nothing(tmp_path: Path, secure: str) -> None:
    overrides = ["model=popularity", "cohort.dropout=0.7", f"privacy.secure={secure}", "privacy.randomness=system"]
    experiment, dataset = small(*overrides, base=SEEDED)
    assert experiment.mechanism.least_devices == 16
    with session(experiment, dataset, tmp_path / "run") as opened:
        (report,) = run(opened)
        before, after = load_released_state(opened)[1], opened.ledger.epsilon()
    assert not report.released and after == pytest.approx(8.0, rel=0.01)
    assert all(not array.any() for array in before.values())
    if secure == "real":
        assert any("devices answered the secure sum's" in reason for reason in report.rejected.values())


class Meddler:
    """Passes messages on, but changes what the devices of node 2 answer in one phase."""

    def __init__(self, phase: int) -> None:
        self._nodes, self._phase = LocalTransport(3), phase

    def ids(self) -> list[int]:
        return self._nodes.ids()

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        for node, reply in self._nodes.request(requests, deadline_seconds):
            if node == 2 and requests[node].header.get("phase") == self._phase:
                told = {row: content[:-1] for row, content in payloads_of(reply).items()}
                yield node, with_payloads(reply, told)
            else:
                yield node, reply


@pytest.mark.parametrize("phase", [1, 3, 5])
def test_answers_that_were_changed_are_named_and_never_summed(tmp_path: Path, phase: int) -> None:
    """A third of the devices: what is left is just enough, and counts."""
    (report,), _ = played(tmp_path / "run", "model=popularity", "privacy.secure=real", nodes=Meddler(phase))
    assert "secure sum" in report.rejected[2]
    assert report.released and report.answered == (24 if phase == 5 else 16)


def test_a_node_that_fails_is_named(tmp_path: Path) -> None:
    class Failing(Meddler):
        def request(
            self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
        ) -> Iterator[tuple[int, Message]]:
            for node, reply in self._nodes.request(requests, deadline_seconds):
                failed = node == 2 and "phase" in requests[node].header
                yield node, Message({**reply.header, "error": "out of memory"}) if failed else reply

    (report,), _ = played(tmp_path / "run", "model=popularity", "privacy.secure=real", nodes=Failing(0))
    assert report.rejected[2] == "the node reported an error: out of memory" and report.answered == 16


def test_the_model_is_hashed_with_its_names_shapes_and_types() -> None:
    array: Any = np.arange(6, dtype=np.float32)
    hashes = {
        model_hash(arrays)
        for arrays in (
            {"a": array},
            {"b": array},
            {"a": array.reshape(2, 3)},
            {"a": array.view(np.int32)},
            {"a": array, "b": array},
            {"a": array + 1},
        )
    }
    assert len(hashes) == 6
    assert model_hash({"b": array, "a": array}) == model_hash({"a": array, "b": array})


def test_terms_follow_from_the_plan_and_other_mechanisms_make_none() -> None:
    experiment, dataset = small("model=popularity", base=SEEDED)
    header = {"run": "run", "round": 1, "attempt": 1, "numbers": 30}
    terms = secure_devices.make_terms(experiment, experiment.plan(dataset), header)
    assert (terms.least, terms.most, terms.corrupt, terms.dropped) == (16, 24, 0.05, 0.3)
    other: Experiment = load(["dataset=synthetic", "privacy=user", "model=popularity"]).experiment
    with pytest.raises(ValueError, match="user makes no secure sums"):
        secure_devices.make_terms(other, experiment.plan(dataset), header)


def test_a_cohort_that_is_too_small_is_refused_by_name() -> None:
    with pytest.raises(RefusedError, match="UserSecure: 1 devices in a sum at least"):
        small("model=popularity", "cohort.size=2", base=SEEDED)


def test_devices_with_a_policy_take_no_part_in_messages_that_they_do_not_know(tmp_path: Path) -> None:
    """A secure sum is a charge like any other: a guarded node answers none of its messages without its policy."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[privacy]\ntrust = ["device", "server"]\nlargest_epsilon_per_year = 100.0\n')
    experiment = small("model=popularity", "privacy.secure=real", base=SEEDED)[0]
    asked = {"kind": "secure", "phase": 1, "devices": [0, 1], "experiment": experiment.document, "round": 1, "run": "a"}
    reply = ConsentGuard.of(Node(0, 1, exact=True), str(policy), None).answer(Message(asked))
    assert reply.header == {"error": "no device here takes part: its policy declines"}


def test_messages_of_one_process_are_refused_on_ray() -> None:
    with pytest.raises(FedrecError, match="plays its messages in one process"):
        ray.run_on_ray(["dataset=synthetic", "model=mf", "privacy=user_secure", "privacy.secure=real"], 2, None)


def test_a_sum_beyond_what_honest_devices_reach_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One device adds half the modulus to one number: no check of a masked vector finds that, and the sum's does."""
    real = secure_devices.SecureFleet.answer

    def hostile(self: Any, terms: Any, phase: Any, asked: Any, broadcast: Any, vector: Any) -> Message:
        def spoiled(row: int) -> Any:
            found = vector(row)
            found[0] += (1 << (terms.bits - 1)) * (row == 3)
            return found

        return real(self, terms, phase, asked, broadcast, spoiled)

    monkeypatch.setattr(secure_devices.SecureFleet, "answer", hostile)
    (report,), state = played(tmp_path / "run", "model=popularity", "privacy.secure=real")
    assert not report.released and all(not array.any() for array in state.values())
    assert any("honest devices can't add up to" in reason for reason in report.rejected.values())
