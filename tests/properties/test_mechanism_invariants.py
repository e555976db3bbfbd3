"""The invariants, through the real rounds, for every mechanism; each with its fault planted."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import FedrecError
from fedrec.federated.exchange import LocalTransport, Transport
from fedrec.federated.loop import run
from fedrec.federated.state import RoundReport, load_released_state
from fedrec.messages import Message, ModelUpdate
from fedrec.privacy.mechanisms import base
from fedrec.privacy.mechanisms.base import BaseMechanism
from fedrec.privacy.release import worth
from tests.support.packed import largest
from tests.support.tiny import SMALL, session, small

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "privacy").glob("*.yaml"))
PRIVATE = [name for name in NAMES if name != "none"]
CENTRAL = ["user", "user_adaptive", "banded"]
ROUNDS = 2
pytestmark = pytest.mark.filterwarnings("ignore")


def played(
    path: Path, name: str, *overrides: str, nodes: Transport | None = None, stop: int = ROUNDS
) -> tuple[list[RoundReport], np.ndarray]:
    """Return the rounds of a run, from where its folder stands up to round `stop`, and the model as one vector."""
    base = [*SMALL, "model=mf", "model.dim=4", f"privacy={name}", f"rounds={ROUNDS}", "evaluation.users=2"]
    experiment, dataset = small("algorithm=fedavg", *overrides, base=base)
    rounds = list[RoundReport]()
    with session(experiment, dataset, path, nodes, run=path.name) as opened:
        for report in run(opened):
            rounds.append(report)
            if report.round == stop:
                break
        return rounds, np.concatenate([array.ravel() for array in load_released_state(opened)[1].values()])


@pytest.mark.parametrize("name", PRIVATE)
def test_absence_changes_neither_epsilon_nor_noise(tmp_path: Path, name: str) -> None:
    """I6: 0 to 100 % of the drawn devices never answer, and a round that is not released is charged all the same.

    Where the server adds the noise, each is released: that nobody came is a secret too.

    With central noise a device counts once it was invited; with its own noise, what it spent is counted at the same
    invitations here, because the cohort is drawn from the same seed.
    """
    spent, released = list[float | None](), list[bool]()
    silent = ["cohort.dropout=0.9999"]
    for place, extra in enumerate(([], ["cohort.dropout=0.9"], ["cohort.dropout=0.9", "cohort.minimum=35"], silent)):
        rounds, state = played(tmp_path / f"{name}-{place}", name, *extra)
        assert np.isfinite(state).all()
        spent.append(rounds[-1].epsilon)
        released.append(rounds[-1].released)
    assert spent[0] is not None and set(spent) == {spent[0]} and spent[0] <= 8.0
    enough = name != "user_secure"  # a tenth of the devices has not the noise that a secure sum must have
    assert released == [True, enough, name in CENTRAL, name in CENTRAL]


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    return abs(float(np.corrcoef(one, other)[0, 1])) * len(one) ** 0.5


@pytest.mark.system_noise
@pytest.mark.parametrize("name", PRIVATE)
def test_noise_is_never_used_twice(tmp_path: Path, name: str) -> None:
    """I3: the same experiment and seed in two runs, and once stopped and resumed, share no noise.

    Positive control: in test mode, where noise comes from the seed, they are one and the same.
    """
    loud = ["privacy.epsilon=0.05", "algorithm.learning_rate=1e-6", "model.init_std=1e-9"]
    models = [played(tmp_path / f"{name}-{n}", name, *loud)[1] for n in range(2)]
    played(tmp_path / f"{name}-resumed", name, *loud, stop=1)
    models.append(played(tmp_path / f"{name}-resumed", name, *loud)[1])
    for n, one in enumerate(models):
        assert one.std() > 0
        assert all(likeness(one, other) < 6.5 for other in models[n + 1 :])
    if name not in ("user", "banded"):
        return
    seeded = [played(tmp_path / f"{name}-seed-{n}", name, *loud, "privacy.randomness=seeded")[1] for n in range(2)]
    assert likeness(*seeded) > 0.99 * len(seeded[0]) ** 0.5


@pytest.mark.parametrize("name", PRIVATE)
def test_stopped_and_resumed_it_ends_as_it_would_have(tmp_path: Path, name: str) -> None:
    """I4: in test mode a run that goes on from its checkpoint ends bit-identical, memory of the mechanism included."""
    settings = ["privacy.randomness=seeded", "cohort.size=20"]
    whole = played(tmp_path / "whole", name, *settings)[1]
    played(tmp_path / "parts", name, *settings, stop=1)
    np.testing.assert_array_equal(played(tmp_path / "parts", name, *settings)[1], whole)


@pytest.mark.parametrize("name", [*CENTRAL, "user_local", "user_secure"])
def test_the_model_is_the_same_number_by_number_for_every_number_of_nodes(tmp_path: Path, name: str) -> None:
    """Sums of whole numbers don't depend on who adds them; in test mode the noise is the seed's, and all is equal."""
    seeded = ["privacy.randomness=seeded", "cohort.size=20"]
    models = [
        played(tmp_path / f"{parts}", name, *seeded, nodes=LocalTransport(parts), stop=ROUNDS)[1] for parts in (1, 3, 7)
    ]
    for other in models[1:]:
        np.testing.assert_array_equal(models[0], other)


class Huge:
    """Passes messages on, but every number of node 2 is the largest that its devices together could send in one."""

    def __init__(self) -> None:
        self._nodes = LocalTransport(3)

    def ids(self) -> list[int]:
        return self._nodes.ids()

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        for node, reply in self._nodes.request(requests, deadline_seconds):
            spoiled = node == 2 and requests[node].header["kind"] == "train"
            yield node, largest(reply) if spoiled else reply


@pytest.mark.parametrize("clipping", ["whole", "split"])
@pytest.mark.parametrize("name", CENTRAL)
def test_the_server_bounds_what_any_node_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, clipping: str
) -> None:
    """I5: a reply moves the model by a clip for each device in it; unbounded, by one in each of its numbers."""
    extra = ["model=neumf", "model.dim=4", f"privacy.clipping={clipping}", "privacy.epsilon=100"]
    bounded = played(tmp_path / "bounded", name, *extra, nodes=Huge())[1]
    monkeypatch.setattr(base, "bounded_again", lambda total, rule: total)
    unbounded = played(tmp_path / "unbounded", name, *extra, nodes=Huge())[1]
    assert np.linalg.norm(unbounded) > 3 * np.linalg.norm(bounded)


@pytest.mark.parametrize("name", CENTRAL)
def test_weights_that_a_device_claims_are_not_heard(name: str) -> None:
    """M6: the count of an update is one, and its arrays lie within the clip, whatever the device says of itself."""
    mechanism = small(base=[*SMALL, "model=mf", f"privacy={name}"])[0].mechanism
    claimed = ModelUpdate({"item.weight": np.full((60, 2), 1e30, np.float32)}, 10**18)
    sent = mechanism.privatize_update(claimed, mechanism.random(0))
    assert sent.count == 1 and np.linalg.norm(worth(sent)["item.weight"]) <= 1 + 1e-6


class WrongTypes(Huge):
    """Node 2 sends doubles, whole numbers, or one value that is no number."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        for node, reply in self._nodes.request(requests, deadline_seconds):
            wrong = {name: array.astype(self._kind) for name, array in reply.arrays.items()}
            spoiled = node == 2 and requests[node].header["kind"] == "train"
            yield node, Message(reply.header, wrong) if spoiled else reply


@pytest.mark.parametrize(("name", "kind"), [("user_adaptive", "int64"), ("user", "float32"), ("none", "float64")])
def test_wrong_types_do_not_count(tmp_path: Path, name: str, kind: str) -> None:
    """I5: another type than packed words, or than float32, is rejected, and the round goes on without it."""
    rounds, state = played(tmp_path, name, nodes=WrongTypes(kind))
    reason = "is not float32" if name == "none" else "is not what was asked for"
    assert all(reason in report.rejected[2] for report in rounds) and np.isfinite(state).all()


def test_a_clip_that_no_server_may_announce_is_refused(tmp_path: Path) -> None:
    """A device takes the announced clip of a round; one that is no positive number is an error, not a clip."""
    mechanism = small(base=[*SMALL, "model=mf", "privacy=user_adaptive"])[0].mechanism
    for clip in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(FedrecError, match=r"privacy\.clip"):
            mechanism.with_round_params({"clip": clip})


@pytest.mark.parametrize("name", PRIVATE)
def test_only_the_mechanisms_own_memory_is_carried(tmp_path: Path, name: str) -> None:
    """What a mechanism carries is in the checkpoint and in no release, and a run goes on with it."""
    base = [*SMALL, "model=mf", "model.dim=4", f"privacy={name}", f"rounds={ROUNDS}", "cohort.size=8"]
    experiment, dataset = small(base=base)
    with session(experiment, dataset, tmp_path) as opened:
        list(run(opened))
        released = experiment.algorithm.broadcast(load_released_state(opened)[1])
    from fedrec.storage.run_folder import load_checkpoint

    saved = load_checkpoint(opened.folder.checkpoints)
    expected = {
        "user_adaptive": {"clip"},
        "banded": {kind + name for kind in ("sum/", "estimate/") for name in released},
    }
    assert saved is not None and saved.mechanism_state.keys() == expected.get(name, set())
    assert not any(name.startswith("memory/") for name in released)
    assert isinstance(experiment.mechanism, BaseMechanism)
