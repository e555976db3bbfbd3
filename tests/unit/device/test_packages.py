"""On devices, code of others runs only where the device's own person allowed the package by name."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedrec.data.catalogue import encode
from fedrec.device import saved_state
from fedrec.device.backend import ConsentGuard
from fedrec.device.consent.consent import TEMPLATE, packages_of, read_table
from fedrec.device.consent.request import parse_request
from fedrec.device.device import Device
from fedrec.device.home import Home
from fedrec.device.recommender import DeviceRecommender
from fedrec.device.saved_state import rebuild
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.instantiate import allow
from fedrec.experiment.settings import load
from fedrec.messages import PROTOCOL, Message
from fedrec.server import deployment as room
from tests.support.devices import WILLING, Village
from tests.support.own_package import NAME, importable, imported, write_package
from tests.support.tiny import catalogue, small

LEAVE = f'[packages]\nallow = ["{NAME}"]\n'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "GATHER_SECONDS", 0.0)


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    with importable(write_package(tmp_path / "own")) as root:
        yield root


@pytest.fixture
def village(tmp_path: Path) -> Village:
    return Village(tmp_path, devices=2, engine="torch")


def overrides(package: Path) -> list[str]:
    return [f"config_dir={package / NAME / 'conf'}", f"allow={NAME}", f"model={NAME}", "model.dim=4", "rounds=2"]


def test_a_device_that_allows_the_package_trains_and_one_that_does_not_refuses_by_name(
    village: Village, package: Path
) -> None:
    """The server runs in this very process, which allows the package: it is the device's policy that decides."""
    village.homes[0].policy.write_text(WILLING + LEAVE)
    folder = village.prepare("name=real", *overrides(package))
    village.deployment(folder).carry_out()
    lines = [json.loads(line) for line in (folder.path / "rounds.jsonl").read_text().splitlines()]
    assert [line["answered"] for line in lines] == [1, 1]
    assert f"this device does not allow {NAME}" in village.told.getvalue()
    store = village.homes[0].store()
    assert saved_state.count_answers(store) == 2
    recommender = DeviceRecommender(store)
    assert recommender.recommend(3, []) and rebuild(store)  # from what it keeps, with the same leave
    village.homes[0].policy.write_text(WILLING)
    with pytest.raises(RefusedError, match=f"this device does not allow {NAME}"):
        DeviceRecommender(store).recommend(3, [])
    assert saved_state.count_answers(village.homes[1].store()) == 0


def hostile(village: Village, kind: str, **changes: Any) -> Message:
    """A request as a hostile server would send it, with a document of its own making."""
    enrolled = load(village.overrides("dataset.devices=3")).experiment.node()
    text = json.dumps({**enrolled, "allow": [NAME], **changes})
    digest = hashlib.sha256(text.encode()).hexdigest()
    header = {"protocol": PROTOCOL, "kind": kind, "run": "r", "round": 1, "hash": digest, "nonce": "n", "devices": [0]}
    return Message({**header, "experiment": text, "privacy": {}, "part": "train", "folder": ""})


@pytest.mark.parametrize("kind", ["hello", "train", "evaluate"])
@pytest.mark.parametrize("target", [f"{NAME}.model.ShopMf", "os.system", "subprocess.Popen", f"{NAME}.parts.run"])
def test_a_hostile_server_gets_nothing_imported_nothing_charged(
    village: Village, package: Path, kind: str, target: str
) -> None:
    allow(NAME)  # what this process allows is nothing to a device
    home = village.homes[0]
    request = hostile(village, kind, model={"_target_": target, "_partial_": True})
    with pytest.raises(RefusedError, match=r"model._target_="):
        Device(home).answer(request)
    assert not imported() and not home.ledger.exists()


@pytest.mark.parametrize(
    ("name", "said"), [("run", "is no class of"), ("Plain", "derive the class from it"), ("os", "is no class of")]
)
def test_with_leave_a_device_still_builds_models_alone(
    village: Village, package: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_RAN", raising=False)
    home = village.homes[0]
    home.policy.write_text(WILLING + LEAVE)
    saved_state.save_catalogue(home.store(), Message(*encode(catalogue(60))))
    request = hostile(village, "train", model={"_target_": f"{NAME}.parts.{name}", "_partial_": True})
    with pytest.raises(FedrecError, match=said):
        Device(home).answer(request)
    assert "SHOP_RAN" not in os.environ and saved_state.count_answers(home.store()) == 0


def test_a_mechanism_of_ones_own_counts_as_no_protection_on_a_device() -> None:
    """Its author's claim is nothing that a device can account for: it asks for the trust that no privacy asks for."""
    document = small("model=mf")[0].node()
    private = {"_target_": f"{NAME}.parts.Promise", "epsilon": 1.0, "noise_multiplier": 9.0, "clip": 0.1}
    asked = parse_request({"experiment": json.dumps({**document, "privacy": private})})
    assert (asked.unit, asked.trust) == ("none", "none") and asked.epsilon == float("inf")
    old = {**private, "_target_": "fedrec.privacy.user.UserLevel"}
    assert parse_request({"experiment": json.dumps({**document, "privacy": old})}).trust == "server"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[packages]\nalow = []\n", "packages.alow does not exist. Did you mean 'allow'"),
        ('[packages]\nallow = "shop_mf"\n', "a list of names is expected"),
        ("[packages]\nallow = [1]\n", "a list of names is expected"),
        ('[packages]\nallow = ["os"]\n', "that is Python's own"),
        ('[packages]\nallow = ["*"]\n', "the name of a package expected"),
        ("packages = 1\n", "packages must be a table"),
        ("[package]\nallow = []\n", r"\[package\] does not exist. Did you mean 'packages'"),
        ("[privcy]\nlargest_clip = 1.0\n", r"\[privcy\] does not exist. Did you mean 'privacy'"),
    ],
)
def test_a_policy_with_a_mistake_allows_nothing(village: Village, text: str, said: str) -> None:
    home = village.homes[0]
    home.policy.write_text(text)
    with pytest.raises(FedrecError, match=said):
        home.packages()
    with pytest.raises(FedrecError, match=said):
        Device(home).answer(hostile(village, "hello"))


def test_the_template_allows_no_package(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TEMPLATE)
    assert packages_of(read_table(path, "packages")) == () == Home(tmp_path / "nobody").packages()
    path.write_text(TEMPLATE.replace("# allow", "allow"))
    assert packages_of(read_table(path, "packages")) == ("my_package",)


class Answers:
    """A node that notes what reaches it."""

    def __init__(self) -> None:
        self.heard = list[str]()

    def answer(self, request: Message) -> Message:
        self.heard.append(request.header["kind"])
        return Message({})


def test_simulated_devices_with_a_policy_ask_theirs(village: Village, tmp_path: Path) -> None:
    path, node = tmp_path / "policy.toml", Answers()
    path.write_text(WILLING)
    request = hostile(village, "hello", model={"_target_": f"{NAME}.model.ShopMf", "_partial_": True})
    allow(NAME)
    with pytest.raises(RefusedError, match=f"does not allow {NAME}"):
        ConsentGuard.of(node, str(path), None).answer(request)
    path.write_text(WILLING + LEAVE)
    ConsentGuard.of(node, str(path), None).answer(replace(request))
    assert node.heard == ["hello"]
