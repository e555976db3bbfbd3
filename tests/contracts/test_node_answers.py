"""What every node promises whoever carries its messages: simulated shards, with torch and without, and real devices.

The answer is the request's own, holds what the algorithm promises and, where nobody may know more, nothing else.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.data import catalogue as wire
from fedrec.device.backend import ConsentGuard, NodeProtocol
from fedrec.device.device import Device
from fedrec.errors import RefusedError
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.federated.exchange import base_header
from fedrec.federated.node import Node
from fedrec.messages import ECHO, Arrays, Message, pack, validate_reply
from fedrec.numpy_engine.node import LightNode
from fedrec.simulation import resumed_run
from tests.support.devices import WILLING, Village
from tests.support.tiny import small


@dataclass(frozen=True)
class Scene:
    """A node, what it is asked, and whether it may tell exact figures."""

    node: NodeProtocol
    header: dict[str, Any]
    devices: list[int]
    experiment: Experiment
    sent: Arrays
    exact: bool

    def request(self, kind: str, **more: Any) -> Message:
        devices = [] if kind == "hello" else self.devices
        arrays = {} if kind == "hello" else {name: array.copy() for name, array in self.sent.items()}
        return Message({**self.header, "kind": kind, "devices": devices, **more}, arrays)

    def trained(self, number: int = 1) -> Message:
        return self.node.answer(self.request("train", round=number))


def simulated(node: Callable[[Path], NodeProtocol], exact: bool) -> Callable[[Path], Scene]:
    def make(path: Path) -> Scene:
        experiment, dataset = small("model=mf", "model.dim=2", "dataset.users=6")
        state = experiment.algorithm.init(experiment.build_model(dataset.catalogue), dataset.catalogue)
        header = {**base_header(experiment, "run", str(path / "private")), "part": "train"}
        return Scene(node(path), header, [0, 2, 5], experiment, experiment.algorithm.broadcast(state), exact)

    return make


def guarded(path: Path) -> NodeProtocol:
    (path / "policy.toml").write_text(WILLING)
    return ConsentGuard.of(Node(0, 1, exact=True), str(path / "policy.toml"), None)


def enrolled(engine: str) -> Callable[[Path], Scene]:
    """Return a real device that holds the catalogue, and a run that its server prepared."""

    def make(path: Path) -> Scene:
        village = Village(path / "village", devices=1, engine=engine)
        settings, _ = resumed_run(str(village.prepare("name=run").path))
        dataset = load_dataset(settings.experiment)
        experiment = settings.experiment.calibrated(dataset)
        header = {**base_header(experiment, "run", ""), "part": "train", "nonce": "n"}
        node, (described, arrays) = Device(village.homes[0]), wire.encode(dataset.catalogue)
        node.answer(Message({**header, "kind": "catalogue", "devices": [], "catalogue": described}, arrays))
        state = experiment.algorithm.init(experiment.build_model(dataset.catalogue), dataset.catalogue)
        return Scene(node, header, [0], experiment, experiment.algorithm.broadcast(state), exact=False)

    return make


SCENES: dict[str, Callable[[Path], Scene]] = {
    "simulated, torch": simulated(lambda _: Node(0, 1, exact=True), exact=True),
    "simulated, NumPy": simulated(lambda _: LightNode(0, 1, exact=True), exact=True),
    "simulated, asked first": simulated(guarded, exact=True),
    "real, torch": simulated(lambda _: Node(0, 1, exact=False), exact=False),
    "real, NumPy": simulated(lambda _: LightNode(0, 1, exact=False), exact=False),
    "enrolled, torch": enrolled("torch"),
    "enrolled, NumPy": enrolled("light"),
}


@pytest.fixture(scope="module", params=SCENES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return SCENES[request.param](tmp_path_factory.mktemp("scene"))


@pytest.fixture
def scene(built: Scene, request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    """The scene in a run of its own."""
    folder = str(tmp_path / "private") if built.header["folder"] else ""
    return replace(built, header={**built.header, "run": re.sub(r"\W+", "-", request.node.name)[:60], "folder": folder})


def test_a_hello_says_which_fedrec_answers(scene: Scene) -> None:
    reply = scene.node.answer(scene.request("hello"))
    assert reply.header["fedrec"] == version("fedrec") and not reply.arrays
    assert {key: reply.header[key] for key in ECHO} == {key: scene.header[key] for key in ECHO}


def test_an_update_is_one_that_the_server_lets_count(scene: Scene) -> None:
    request, algorithm = scene.request("train", round=1), scene.experiment.algorithm
    reply = scene.node.answer(request)
    shapes = algorithm.shapes(scene.sent)
    validate_reply(reply, request.header, shapes, algorithm.float64_arrays, exact=scene.exact)
    assert reply.header["count"] == len(scene.devices)
    assert any(np.abs(array).max() > 0 for array in reply.arrays.values())


def test_nothing_exact_leaves_where_nobody_may_know_it(scene: Scene) -> None:
    told = scene.trained().header.keys() - {*ECHO, "count"}
    assert told == ({"loss", "examples"} if scene.exact else set())


def test_exact_results_are_told_in_a_simulation_alone(scene: Scene) -> None:
    request = scene.request("evaluate", part="test", round=0)
    if scene.exact:
        rows = scene.node.answer(request).arrays
        assert rows["user"].tolist() == scene.devices and set(rows) >= {"full_hr@10", "sampled_ndcg@10"}
        return
    try:
        reply = scene.node.answer(request)
    except RefusedError as refusal:
        assert "exact results do not leave this device" in str(refusal)
    else:
        assert reply.header["error"] == "exact results do not leave a real device" and not reply.arrays


def test_a_round_asked_again_is_answered_by_the_same_bytes(scene: Scene) -> None:
    if isinstance(scene.node, ConsentGuard):
        pytest.skip("answers no round twice: it would be charged twice")
    first = scene.trained()
    before = pack(first)
    for array in first.arrays.values():
        array[...] = np.nan  # what came back is the receiver's own
    assert pack(scene.trained()) == before


def test_another_round_is_another_answer(scene: Scene) -> None:
    first, second = scene.trained(1), scene.trained(2)
    assert (first.header["round"], second.header["round"]) == (1, 2)
    assert any(not np.array_equal(array, second.arrays[name]) for name, array in first.arrays.items())


def test_the_request_stays_as_it_was(scene: Scene) -> None:
    for kind in ("hello", "train"):
        request = scene.request(kind, round=1)
        before = pack(request)
        scene.node.answer(request)
        assert pack(request) == before


def test_the_sum_is_that_of_each_device_alone(scene: Scene) -> None:
    """Who else is asked changes nothing: without noise, parts of a cohort add up to it."""
    if isinstance(scene.node, ConsentGuard) or len(scene.devices) == 1:
        pytest.skip("one answer a round")
    together = scene.trained()
    apart = [scene.node.answer(scene.request("train", round=1, devices=[device])) for device in scene.devices]
    for name, array in together.arrays.items():
        np.testing.assert_allclose(sum(one.arrays[name] for one in apart), array, atol=1e-6)
    assert sum(one.header["count"] for one in apart) == together.header["count"]
