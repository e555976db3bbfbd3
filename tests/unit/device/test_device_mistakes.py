"""What devices, servers and mechanisms refuse: each in its own words, and nothing is left behind."""

import socket
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from fedrec.cli.client import run as client
from fedrec.data import catalogue as wire
from fedrec.device.home import Enrolment, Home, check_address, enroll
from fedrec.device.store import DeviceStore
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment import experiment
from fedrec.messages import Message, ModelUpdate, RejectedReplyError, validate_reply
from fedrec.numpy_engine import experiment as light
from fedrec.ops import keys
from fedrec.paths import ledger_path
from fedrec.privacy.clipping import check_groups
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.noise import SeededNoise
from fedrec.server import supervisor
from fedrec.server.home import Address, ServerHome
from tests.support.tiny import SMALL, catalogue, small

ENROLMENT = Enrolment("127.0.0.1:8000")


def test_a_device_is_enrolled_once_and_again_only_when_asked(tmp_path: Path) -> None:
    home = Home(tmp_path / "device")
    said = enroll(home, ENROLMENT, None)
    key = home.key.read_bytes()
    with pytest.raises(FedrecError, match=r"is enrolled with 127\.0\.0\.1:8000 already; --again changes that"):
        enroll(home, replace(ENROLMENT, server="localhost:9"), None)
    again = enroll(home, replace(ENROLMENT, server="localhost:9"), None, again=True)
    assert home.enrolment().server == "localhost:9" and home.key.read_bytes() == key and said[0] == again[0]
    for path in (home.path, home.key, home.enrolment_file, home.policy):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("address", ["server", "server:", ":80", "server:0", "server:65536", "server:http", "a:-1"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(FedrecError, match=r"a name and a port expected, such as 192\.168\.1\.10:8000"):
        check_address(address)


def test_addresses_have_their_host() -> None:
    assert check_address("a.b:65535") == "a.b" and check_address("::1:80") == "::1"


def test_other_machines_need_a_certificate_that_is_one(tmp_path: Path) -> None:
    home, far = Home(tmp_path / "device"), Enrolment("10.0.0.1:8000")
    with pytest.raises(FedrecError, match=r"--server 10\.0\.0\.1:8000 is not this machine: --ca FILE names"):
        enroll(home, far, None)
    (tmp_path / "ca.crt").write_text("no such thing")
    for name in ("ca.crt", "gone.crt"):
        with pytest.raises(FedrecError, match=rf"--ca .*{name}: no certificate there; copy ca\.crt"):
            enroll(home, far, str(tmp_path / name))
    assert not home.enrolment_file.exists() and not home.key.exists()
    with pytest.raises(FedrecError, match="is no device yet: fedrec client enroll --home"):
        home.enrolment()


def test_an_enrolment_that_is_damaged_says_how_to_make_it_anew(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for text in ("{", '{"servr": "a:1"}', "[]"):
        home.enrolment_file.write_text(text)
        with pytest.raises(FedrecError, match=r"enrolment\.json is damaged \(.*\): enroll again with --again"):
            home.enrolment()


def test_flags_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match="--always and --only-when contradict each other: give one of them"):
        client(["up", "--home", str(tmp_path), "--always", "--only-when", "idle"])


def test_a_server_without_tls_is_for_this_machine_alone(tmp_path: Path) -> None:
    home = ServerHome(tmp_path / "server")
    with pytest.raises(FedrecError, match=r"--insecure --host 0\.0\.0\.0: without TLS only this machine's own devices"):
        supervisor.up(home, Address("0.0.0.0", 8000, True), print)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FedrecError, match=f"--port {port} is taken: is a server up already"):
            supervisor.up(home, Address("127.0.0.1", port, True), print)
    assert not (tmp_path / "server").exists()


def test_a_store_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    DeviceStore(path).close()
    with sqlite3.connect(path) as database:
        database.execute("pragma user_version=99")
    with pytest.raises(FedrecError, match=r"was written by a newer fedrec \(version 99\): update this one"):
        DeviceStore(path)
    with sqlite3.connect(path) as database:
        assert database.execute("pragma user_version").fetchone() == (99,)


def test_a_key_of_another_kind_signs_nothing() -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    with pytest.raises(FedrecError, match="the device's key is not an elliptic-curve key: enroll again"):
        keys.sign(key, "text")


def test_a_signature_is_of_one_text_and_one_key() -> None:
    (private, public), (_, other) = keys.new_key(), keys.new_key()
    signature = keys.sign(private, "forget me")
    assert keys.signed(public, "forget me", signature)
    assert not keys.signed(public, "forget you", signature) and not keys.signed(other, "forget me", signature)
    assert not keys.signed(public, "forget me", "no hex") and not keys.signed(public, "forget me", "00")


def test_a_catalogue_goes_over_the_wire_and_comes_back() -> None:
    sent = catalogue(5)
    found = wire.decode(*wire.encode(sent))
    assert found.ids.tolist() == sent.ids.tolist() and found.feature_names == sent.feature_names
    assert wire.digest(found) == wire.digest(sent) != wire.digest(catalogue(4))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": np.zeros((4, 3), np.float32)}, "a catalogue whose columns do not fit together"),
        ({"features": np.zeros((5, 2), np.float32)}, "a catalogue whose columns do not fit together"),
        ({"ids_end": np.array([2, 1, 6, 8, 10])}, "something that is not a catalogue"),
        ({"ids_end": np.array([2, 4, 6, 8, 11])}, "something that is not a catalogue"),
        ({"ids_text": np.full(10, 0xFF, np.uint8)}, "something that is not a catalogue"),
        ({"features": None}, "something that is not a catalogue"),
    ],
)
def test_a_catalogue_that_is_none_is_refused(change: dict[str, Any], said: str) -> None:
    header, arrays = wire.encode(catalogue(5))
    changed = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    with pytest.raises(RefusedError, match=f"the server sent {said}"):
        wire.decode(header, changed)


def broken(value: float) -> ModelUpdate:
    return ModelUpdate({"w": np.array([1.0, value], np.float32)}, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_no_number_leaves_no_device(value: float) -> None:
    said = "an update holds NaN or infinity: training diverged; try a smaller learning rate"
    with pytest.raises(FedrecError, match=said):
        NoPrivacy().privatize_update(broken(value), SeededNoise(0))
    with pytest.raises(FedrecError, match=said):
        light.NoPrivacy().privatize_update(broken(value))
    node = {
        "_target_": "fedrec.privacy.mechanisms.user.UserLevel",
        "clip": 1.0,
        "clipping": "whole",
        "dense_share": 0.5,
    }
    assert light.mechanism(node).privatize_update(broken(value)).arrays["w"].tolist() == [0.0, 0.0]


SAID: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "the light engine": (
        lambda: light.mechanism({"_target_": "fedrec.privacy.mechanisms.banded.BandedUserLevel"}),
        RefusedError,
        "the light engine carries NoPrivacy and UserLevel, not BandedUserLevel: choose privacy=none or privacy=user",
    ),
    "items alone": (
        lambda: check_groups("split", {"item.weight": np.zeros((3, 2), np.float32)}, "mf"),
        RefusedError,
        "privacy.clipping=split bounds item rows and dense parameters apart; mf shares ",
    ),
    "a seed": (lambda: SeededNoise(-1), FedrecError, "a seed key holds whole numbers from 0 to 2^64 - 1, not (-1,)"),
    "a population": (lambda: ledger_path(""), FedrecError, "dataset.population is empty: the ledger needs to know"),
    "an accelerator": (lambda: experiment.accelerator("tpu"), FedrecError, "accelerator=tpu must be cpu or cuda"),
    "an engine": (
        lambda: experiment.checked_engine("refrence"),
        FedrecError,
        "engine=refrence does not exist. Did you mean 'reference'?",
    ),
    "the best round": (
        lambda: small("model=mf", "evaluation.select=best", base=[*SMALL, "privacy=user"]),
        RefusedError,
        "evaluation.select=best looks at exact validation figures: it needs privacy=none",
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_it_is_said(case: str) -> None:
    call, kind, said = SAID[case]
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(said), str(error.value)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(2, np.float64), "w is not float32"),
        (np.zeros(2, np.float16), "w is not float32"),
        (np.zeros((2, 1), np.float32), "w has another shape than the model's"),
        (np.array([0, np.inf], np.float32), "w is not finite"),
    ],
)
def test_an_array_of_another_kind_is_no_update(array: np.ndarray, said: str) -> None:
    asked = {"protocol": 1, "run": "a", "round": 2, "hash": "h", "devices": [0]}
    with pytest.raises(RejectedReplyError, match=f"^{said}$"):
        validate_reply(Message({**asked, "count": 1}, {"w": array}), asked, {"w": (2,)})


@pytest.mark.parametrize(
    ("loss", "examples"),
    [(np.nan, 1), (1e300, 1), ("1", 1), (1.0, -1), (1.0, 1.0), (1.0, None), (None, 3), (1.0, True)],
)
def test_a_loss_that_is_no_sum_is_refused(loss: object, examples: object) -> None:
    asked = {"protocol": 1, "run": "a", "round": 2, "hash": "h", "devices": [0]}
    with pytest.raises(RejectedReplyError, match="loss is not a finite sum over a number of examples"):
        validate_reply(Message({**asked, "count": 0, "loss": loss, "examples": examples}), asked, {})
    validate_reply(Message({**asked, "count": 0, "loss": 2, "examples": 0}), asked, {})
