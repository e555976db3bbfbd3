"""A device's own limits: what a server's words may cost it, refused before any work and any charge."""

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.cli.client import run as client
from fedrec.data import catalogue as wire
from fedrec.device import catalogue as pins
from fedrec.device import limits as room
from fedrec.device import saved_state
from fedrec.device.device import Device
from fedrec.device.home import Home
from fedrec.device.limits import MIB, DeviceLimits, check_disk, check_train
from fedrec.device.status import in_words, status
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.settings import load
from fedrec.messages import PROTOCOL, Message
from fedrec.ops.bounded import run_bounded
from tests.support.devices import WILLING, Village
from tests.support.tiny import catalogue

LIMITS = DeviceLimits()


@cache
def document() -> str:
    chosen = ["dataset=devices", "dataset.devices=5", "dataset.path=items.csv", "model=mf", "privacy=none"]
    return load(chosen).experiment.document


def request(changes: dict[str, Any] | None = None, numbers: int = 10, **header: Any) -> Message:
    """A train request of model=mf, parts of its document changed: {"algorithm.epochs": 7}."""
    node = json.loads(document())
    for place, value in (changes or {}).items():
        part, _, name = place.partition(".")
        node[part] = {**node[part], name: value}
    text = json.dumps(node)
    told = {"protocol": PROTOCOL, "kind": "train", "run": "r", "round": 1, "devices": [0], "part": "train"}
    named = {"experiment": text, "hash": hashlib.sha256(text.encode()).hexdigest(), "folder": "", "privacy": {}}
    return Message({**told, **named, **header}, {"item": np.zeros(numbers, np.float32)})


# The file.


def test_limits_come_from_the_policy_and_mistakes_are_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert DeviceLimits.of(home) == LIMITS
    home.policy.write_text('[limits]\nepochs = 3\ncatalogue_changes = "accept"\n')
    assert DeviceLimits.of(home) == replace(LIMITS, epochs=3, catalogue_changes="accept")
    for text, said in (
        ("epoch = 3", "limits.epoch does not exist. Did you mean 'epochs'"),
        ("epochs = 0", "limits.epochs=0: a number above 0"),
        ("epochs = true", "limits.epochs=True: a number above 0"),
        ("seconds = inf", "limits.seconds=inf: a number above 0"),
        ('catalogue_changes = "never"', "limits.catalogue_changes=never does not exist"),
    ):
        home.policy.write_text(f"[limits]\n{text}\n")
        with pytest.raises(FedrecError, match=f"policy.toml: {said}"):
            DeviceLimits.of(home)


def test_the_page_names_every_limit_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how_to" / "device_policy.md").read_text()
    for field in fields(DeviceLimits):
        default: Any = field.default if isinstance(field.default, str) else f"{field.default:g}"
        assert f"| `{field.name}` | {default} |" in page or f"| `{field.name}` | {field.default} |" in page


# What a request asks for.

TOO_MUCH: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "epochs": ({"algorithm.epochs": 10**9}, {}, r"epochs are 1,000,000,000; you allow at most 100 \(\[limits\] epochs"),
    "negatives": ({"algorithm.negatives": 10**6}, {}, r"\[limits\] negatives"),
    "steps": ({"algorithm.batch_size": 1}, {}, r"steps of one round are 50,000; .*\[limits\] steps"),
    "steps of DP-SGD": ({"privacy.local_steps": 10**7}, {}, r"\[limits\] steps"),
    "a number beyond numbers": ({"algorithm.epochs": 10**400}, {}, r"\[limits\] epochs"),
    "document": ({"model.name": "x" * 300_000}, {}, r"\[limits\] document_kib"),
    "model": ({}, {"numbers": 100_000_001}, r"\[limits\] model_numbers"),
    "long name": ({}, {"run": "x" * 65}, r"name is x{40}\.\.\.; you allow 64 plain characters"),
    "a name with an escape": ({}, {"run": "a\x1b[31m"}, r"name is a\?\[31m; you allow 64 plain"),
    "no name": ({}, {"run": None}, "you allow 64 plain characters"),
    "no hash": ({}, {"hash": "0"}, "its hash is none"),
    "round 0": ({}, {"round": 0}, "it asks for round 0"),
    "half a round": ({}, {"round": 1.5}, "it asks for round 1.5"),
    "a round beyond numbers": ({}, {"round": 10**400}, "it asks for round 1"),
    "two devices": ({}, {"devices": [0, 1]}, "does not ask for one device"),
    "no device": ({}, {"devices": []}, "does not ask for one device"),
    "a device without end": ({}, {"devices": [10**12]}, "does not ask for one device"),
    "another part": ({}, {"part": "all"}, "part=all does not exist"),
    "an announcement": ({}, {"privacy": {"noise": 1}}, "announces something else"),
    "nothing": ({}, {"experiment": None}, "names no experiment"),
    "not JSON": ({}, {"experiment": "{"}, "can't be understood"),
    "deep": ({}, {"experiment": "[" * 100_000}, "can't be understood"),
    "a list": ({}, {"experiment": "[]"}, "is no table"),
    "NaN": ({"algorithm.learning_rate": float("nan")}, {}, "holds NaN"),
    "1e999": ({}, {"experiment": '{"algorithm": {"x": 1e999}, "privacy": {}}'}, "not finite"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_asks_for_more_than_the_limits_is_refused(case: str) -> None:
    changes, header, said = TOO_MUCH[case]
    with pytest.raises(RefusedError, match=said) as refused:
        check_train(LIMITS, request(changes, **header), events=10_000)
    assert len(str(refused.value)) < 200 and str(refused.value).isprintable()


def test_the_same_request_within_the_limits_passes() -> None:
    check_train(LIMITS, request(), events=10_000)
    check_train(LIMITS, request({"algorithm.epochs": 100}), events=10_000)
    with pytest.raises(RefusedError, match="epochs"):
        check_train(replace(LIMITS, epochs=99), request({"algorithm.epochs": 100}), events=10_000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_with_a_number_that_is_none_is_refused(value: float) -> None:
    asked = request()
    asked.arrays["item"][3] = value
    with pytest.raises(RefusedError, match="no finite number"):
        check_train(LIMITS, asked, 0)


def test_the_whole_folder_counts_for_the_disk(tmp_path: Path) -> None:
    (tmp_path / "flower").mkdir()
    (tmp_path / "flower" / "log").write_bytes(bytes(2 * MIB))
    (tmp_path / "link").symlink_to("/")
    check_disk(LIMITS, tmp_path)
    check_disk(replace(LIMITS, disk_mib=3), tmp_path, MIB)
    with pytest.raises(RefusedError, match=r"you allow at most 2.5 \(\[limits\] disk_mib"):
        check_disk(replace(LIMITS, disk_mib=2.5), tmp_path, MIB)


# Work in a process of its own.


def answer(header: dict[str, Any]) -> Callable[[], Message]:
    return lambda: Message(header, {"a": np.arange(3.0)})


def test_bounded_work_comes_back_as_it_was() -> None:
    found = run_bounded(answer({"x": [1, "ä", None]}), 20, 500)
    assert found.header == {"x": [1, "ä", None]} and found.arrays["a"].tolist() == [0, 1, 2]
    assert found.arrays["a"].dtype == np.float64


def test_work_that_takes_too_long_is_killed() -> None:
    def endless() -> Message:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(0.01)

    start = time.monotonic()
    with pytest.raises(RefusedError, match=r"longer than 0.3 s; .*\[limits\] seconds"):
        run_bounded(endless, 0.3, 500)
    assert time.monotonic() - start < 10
    with pytest.raises(ChildProcessError):  # nothing is left
        os.waitpid(-1, os.WNOHANG)


def grab(kind: str) -> Message:
    if kind == "numpy":
        return Message({}, {"a": np.ones(200 * MIB, np.float64)})
    if kind == "torch":
        import torch

        return Message({"sum": float(torch.ones(200 * MIB).sum())})
    held = [bytes(MIB) for _ in range(800)]
    return Message({"held": len(held)})


@pytest.mark.parametrize("kind", ["numpy", "torch", "python"])
def test_work_that_takes_too_much_memory_is_refused(kind: str) -> None:
    with pytest.raises(RefusedError, match=r"memory than 300 MiB; .*\[limits\] memory_mib"):
        run_bounded(lambda: grab(kind), 30, 300)


def test_what_goes_wrong_comes_back_by_its_kind() -> None:
    def raising(error: BaseException) -> Callable[[], Message]:
        def work() -> Message:
            raise error

        return work

    with pytest.raises(RefusedError, match="no such thing"):
        run_bounded(raising(RefusedError("no such thing")), 20, 500)
    with pytest.raises(FedrecError, match="a mistake") as mistake:
        run_bounded(raising(FedrecError("a mistake")), 20, 500)
    assert not isinstance(mistake.value, RefusedError)
    with pytest.raises(FedrecError, match="ZeroDivisionError on the node"):
        run_bounded(lambda: Message({"x": 1 // 0}), 20, 500)
    with pytest.raises(RefusedError, match="ended by signal -9"):
        run_bounded(lambda: os.kill(os.getpid(), signal.SIGKILL), 20, 500)  # type: ignore[arg-type,return-value]


# On a device.


@pytest.fixture
def village(tmp_path: Path) -> Village:
    return Village(tmp_path, devices=1)


def offer(found: wire.Catalogue, run: str = "r") -> Message:
    header, arrays = wire.encode(found)
    named = {"protocol": PROTOCOL, "kind": "catalogue", "run": run, "round": 0, "hash": "0" * 64, "devices": []}
    return Message({**named, "experiment": "{}", "catalogue": header}, arrays)


def fit(village: Village, run: str = "r", number: int = 1, **changes: Any) -> Message:
    """A train request that the device of the village carries out, for the catalogue of 60 items."""
    from fedrec.experiment.experiment import Experiment

    experiment = Experiment.from_json(
        json.dumps({**load(village.overrides("dataset.devices=1")).experiment.node(), **changes})
    )
    model = experiment.build_model(catalogue(60))
    arrays = experiment.algorithm.broadcast(experiment.algorithm.init(model, catalogue(60)))
    named = {"experiment": experiment.document, "hash": experiment.hash, "run": run, "round": number}
    told = {"protocol": PROTOCOL, "kind": "train", "devices": [0], "part": "train", "folder": "", "privacy": {}}
    return Message({**told, **named}, dict(arrays))


def with_limits(village: Village, text: str) -> Device:
    village.homes[0].policy.write_text(f"{WILLING}[limits]\n{text}\n")
    return Device(village.homes[0])


def not_taken(device: Device, asked: Message, said: str) -> None:
    """The server hears that there is a limit, the device's person which."""
    with pytest.raises(RefusedError, match="this device's own limits do not allow it"):
        device.answer(asked)
    assert re.search(said, status(device.home)["last"]["text"])
    assert re.search(said, status(device.home)["privacy"]["declined"][-1]["reason"])


def charges(village: Village) -> int:
    values = status(village.homes[0])["privacy"]
    return values["unprotected"] + sum(part["rounds"] for part in values["spent"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = 4", r"epochs are 5; you allow at most 4 \(\[limits\] epochs"),
        ("model_numbers = 100", "model_numbers"),
        ("disk_mib = 0.01", "disk_mib"),
    ],
)
def test_a_request_beyond_a_limit_is_declined_and_told_to_the_person_alone(
    village: Village, text: str, said: str
) -> None:
    device = with_limits(village, text)
    saved_state.save_catalogue(village.homes[0].store(), Message(*wire.encode(catalogue(60))))
    reply = device.answer(fit(village))
    assert reply.header["declined"] is True and not reply.arrays and "limits" not in json.dumps(reply.header)
    values = status(village.homes[0])
    assert said.replace("\\", "") in values["last"]["text"] or said in values["last"]["text"]
    assert len(values["privacy"]["declined"]) == 1 and charges(village) == 0
    assert with_limits(village, "").answer(fit(village)).header["count"] == 1 and charges(village) == 1


@pytest.mark.parametrize(
    ("limit", "model", "said"),
    [
        ("memory_mib = 400", {"dim": 2_000_000}, "memory_mib"),
        ("seconds = 0.001", {}, "seconds"),
        ("", {"dim": 5}, "shape|size|float32"),
        ("", {"dim": -1}, r"model.dim=-1 must be"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_the_rehearsal_before_the_charge(
    village: Village, limit: str, model: dict[str, Any], said: str
) -> None:
    """The model of 4 dimensions that was sent does not fit another size; the others take too much."""
    device = with_limits(village, limit)
    device.answer(offer(catalogue(60)))
    asked, node = fit(village), load(village.overrides("dataset.devices=1")).experiment.node()
    text = json.dumps({**node, "model": {**node["model"], **model}})
    request = Message(
        {**asked.header, "experiment": text, "hash": hashlib.sha256(text.encode()).hexdigest()}, asked.arrays
    )
    if limit:
        assert device.answer(request).header["declined"] is True
    else:
        with pytest.raises(FedrecError, match=said):
            device.answer(request)
    (refusal,) = status(device.home)["privacy"]["declined"]
    assert re.search(said, refusal["reason"]) and charges(village) == 0


# The catalogue.


def test_the_first_catalogue_is_pinned_and_another_waits_for_the_person(village: Village) -> None:
    device, home = Device(village.homes[0]), village.homes[0]
    device.answer(offer(catalogue(60)))
    other = replace(catalogue(60), features=catalogue(60).features + 1)
    for run in ("r", "s"):
        with pytest.raises(RefusedError, match="has taken another catalogue; its person is asked"):
            device.answer(offer(other, run))
    assert saved_state.catalogue(home.store()) is not None
    assert pins.pinned(home.store()).hash == wire.digest(catalogue(60))  # type: ignore[union-attr]
    offered = wire.digest(other)
    assert f"fedrec client catalogue --accept {offered[:16]}" in "\n".join(in_words(status(home)))
    with pytest.raises(FedrecError, match=f"--accept 0000000000: {offered[:16]} was offered"):
        client(["catalogue", "--home", str(home.path), "--accept", "0" * 10])
    client(["catalogue", "--home", str(home.path), "--accept", offered[:16]])
    third = replace(catalogue(60), features=catalogue(60).features + 2)
    with pytest.raises(RefusedError, match="another catalogue"):
        device.answer(offer(third))
    device.answer(offer(other))
    assert pins.pinned(home.store()).hash == offered  # type: ignore[union-attr]


def test_nothing_is_accepted_that_was_not_offered(village: Village) -> None:
    home = village.homes[0]
    with pytest.raises(FedrecError, match="no other catalogue was offered"):
        client(["catalogue", "--home", str(home.path), "--accept", "0" * 64])
    client(["catalogue", "--home", str(home.path)])


def test_a_policy_that_accepts_changes_never_takes_fewer_items_by_itself(village: Village) -> None:
    device = with_limits(village, 'catalogue_changes = "accept"')
    device.answer(offer(catalogue(60)))
    device.answer(offer(catalogue(61)))
    with pytest.raises(RefusedError, match="its person is asked"):
        device.answer(offer(catalogue(60)))
    assert pins.pinned(village.homes[0].store()).items == 61  # type: ignore[union-attr]


def test_no_run_trains_under_two_catalogues(village: Village) -> None:
    device = with_limits(village, 'catalogue_changes = "accept"')
    device.answer(offer(catalogue(60)))
    assert device.answer(fit(village, "r", 1)).header["count"] == 1
    other = replace(catalogue(60), features=catalogue(60).features + 1)
    device.answer(offer(other))
    assert device.answer(fit(village, "r", 2)).header["declined"] is True
    assert "in the middle of this run" in status(village.homes[0])["last"]["text"]
    assert device.answer(fit(village, "s", 1)).header["count"] == 1
    device.answer(offer(catalogue(60)))
    assert device.answer(fit(village, "r", 3)).header["count"] == 1


def long_title(length: int) -> wire.Catalogue:
    titles = catalogue(60).titles.astype("U2000")
    titles[3] = "x" * length
    return replace(catalogue(60), titles=titles)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (catalogue(0), "its catalogue is empty"),
        (long_title(1001), r"a text in its catalogue are 1,001; .*\[limits\] text_characters"),
        (replace(catalogue(60), origin="o" * 1000), "its catalogue comes from o{40}"),
        (replace(catalogue(60), feature_names=("a" * 1001, "b", "c")), "text_characters"),
        (replace(catalogue(60), ids=np.array(["same"] * 60)), "an item stands in its catalogue twice"),
        (replace(catalogue(60), features=catalogue(60).features * np.float32(np.nan)), "no finite number"),
    ],
)
def test_a_catalogue_that_is_none_is_refused_and_the_old_one_stays(
    village: Village, found: wire.Catalogue, said: str
) -> None:
    device = with_limits(village, 'catalogue_changes = "accept"')
    for _ in range(2):  # as the first one, and in the place of another
        not_taken(device, offer(found), said)
        device.answer(offer(catalogue(60)))
    assert pins.pinned(village.homes[0].store()).items == 60  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "said"), [("catalogue_mib = 0.001", "catalogue_mib"), ("items = 59", "items"), ("disk_mib = 0.01", "disk")]
)
def test_a_catalogue_beyond_a_limit_is_refused_before_it_is_taken_apart(
    village: Village, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(wire, "decode", lambda *_: pytest.fail("it was taken apart"))
        not_taken(with_limits(village, text), offer(catalogue(60)), said)
    assert saved_state.catalogue(village.homes[0].store()) is None


def test_the_size_of_a_header_counts_too(village: Village) -> None:
    asked = offer(catalogue(60))
    asked.header["catalogue"]["more"] = "x" * (2 * MIB)
    not_taken(with_limits(village, "catalogue_mib = 1"), asked, "catalogue_mib")


def test_a_hello_under_a_name_without_end_is_refused(village: Village) -> None:
    asked = request(run="x" * MIB, kind="hello", nonce="n")
    not_taken(Device(village.homes[0]), asked, "64 plain characters")


def test_refusals_without_end_leave_no_trace_that_grows(village: Village) -> None:
    device, home = Device(village.homes[0]), village.homes[0]
    sizes = list[int]()
    for number in range(240):
        device.answer(request(run="x" * 100_000, round=number + 1))
        sizes.append(sum(size for size in room._sizes(home.path)))
    assert len(status(home)["privacy"]["declined"]) <= 100 and max(sizes[120:]) - sizes[120] < 20_000


def test_status_says_what_the_chosen_trust_means(village: Village) -> None:
    home = village.homes[0]
    home.policy.write_text("")
    said = "\n".join(in_words(status(home)))
    assert "trusts the device only: what it sends carries noise" in said and "trusts the server" not in said
    home.policy.write_text('[privacy]\ntrust = ["device", "server"]\n')
    said = "\n".join(in_words(status(home)))
    assert "trusts the server: the server sees what it sends before noise is added, also when it asks" in said
    assert "trusts nobody" not in said
