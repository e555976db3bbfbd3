"""What somebody got wrong is named, with where it stands and what would be right, in these words."""

import builtins
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedrec import messages
from fedrec.algorithms.transition_counts import TransitionCounts
from fedrec.audit import auditor
from fedrec.cli.client import run as client
from fedrec.data.download import open_files
from fedrec.data.interactions import Interactions
from fedrec.device import dataset
from fedrec.device.availability import AvailabilityPolicy as Participation
from fedrec.device.availability import span
from fedrec.device.consent.consent import ConsentPolicy
from fedrec.device.home import Home
from fedrec.errors import FedrecError, RefusedError
from fedrec.evaluation.config import EvaluationConfig
from fedrec.experiment import settings
from fedrec.flower import superlink
from fedrec.ops import processes
from fedrec.ops.prometheus import serve_metrics
from fedrec.paths import app_dir
from fedrec.privacy.accounting.composition import epsilon_of_events
from fedrec.privacy.mechanisms.gateway import GatewayLevel
from fedrec.privacy.mechanisms.user_adaptive import UserAdaptive
from fedrec.server import runs
from fedrec.server.home import ServerHome
from fedrec.study.plan import of

STUDY: dict[str, Any] = {
    "name": "toy", "title": "Toy", "methods": {"ease": ["model=ease"]}, "vary": "privacy.epsilon", "values": [1],
    "label": "epsilon", "seeds": [0],
}  # fmt: skip


def rows(user: list[int], item: list[int], users: int = 2) -> Interactions:
    some = np.zeros(len(item), np.int64)
    names = np.arange(users).astype(str)
    return Interactions(np.array(user, np.int32), np.array(item, np.int32), some, some.astype(np.float32), names, 3)


SAID: dict[str, tuple[Callable[[], Any], str]] = {
    "hours": (lambda: span("6 to 9"), 'participation.hours=6 to 9: two hours of the day expected, such as "22-6"'),
    "an hour that no day has": (lambda: span("22-25"), "participation.hours=22-25: two hours of the day expected"),
    "a condition": (
        lambda: Participation().overridden("idel"),
        "--only-when idel: no such condition. Did you mean 'idle'?",
    ),
    "a condition that is no flag": (
        lambda: Participation(idle="yes"),  # type: ignore[arg-type]
        "participation.idle=yes: true or false is expected",
    ),
    "a prior": (lambda: TransitionCounts(prior_scale=0.0), "algorithm.prior_scale=0.0 must be positive, or null"),
    "select": (
        lambda: EvaluationConfig(select="bets"),
        "evaluation.select is 'bets'. Did you mean 'best'?",
    ),
    "a baseline": (
        lambda: EvaluationConfig(baselines=("eas",)),
        "evaluation.baselines names 'eas'. Did you mean 'ease'?",
    ),
    "cutoffs": (lambda: EvaluationConfig(cutoffs=(5,)), "evaluation.cutoffs is (5,): positive numbers, 10 among them"),
    "delta": (lambda: epsilon_of_events([], 1.0), "delta must lie in (0, 1), not 1.0"),
    "split at a gateway": (
        lambda: GatewayLevel(clipping="split"),
        "privacy.clipping=split: GatewayLevel clips each user's whole gradient; use whole",
    ),
    "a sampling rate": (
        lambda: GatewayLevel(sample_rate=1.5),
        "privacy.sample_rate=1.5: must lie above 0 and at most at 1",
    ),
    "a learning rate of the clip": (
        lambda: UserAdaptive(clip_learning_rate=1.1),
        "privacy.clip_learning_rate=1.1: must lie in [0, 1]",
    ),
    "a target": (lambda: UserAdaptive(target=1.0), "privacy.target=1.0: must lie between 0 and 1"),
    "columns": (lambda: rows([0], [0, 1]), "columns of unequal length: [1, 2]"),
    "a user": (lambda: rows([0, 2], [0, 1]), "user rows must lie in 0..1"),
    "an item": (lambda: rows([0, 1], [0, 3]), "item rows must lie in 0..2"),
    "order": (lambda: rows([1, 0], [0, 1]), "interactions must be sorted by user"),
    "bytes": (lambda: messages.unpack(b"12345678901"), "the bytes are no message"),
    "a study's list": (lambda: of({**STUDY, "values": 3}, "x.yaml"), "x.yaml: values must be a list, such as [3]"),
    "a study's number": (
        lambda: of({**STUDY, "seeds": ["one"]}, "x.yaml"),
        "x.yaml: seeds=['one']: a list of int expected",
    ),
    "a study's reference": (
        lambda: of({**STUDY, "references": ["popularty"]}, "x.yaml"),
        "study toy: references names 'popularty'. Did you mean 'popularity'?",
    ),
    "a study's scale": (
        lambda: of({**STUDY, "values": [0, 1], "scale": "log"}, "x.yaml"),
        "study toy: values (0.0, 1.0) on a log scale must be above 0; scale: linear",
    ),
    "a removed group": (lambda: settings.load(["~privacy"]), "privacy"),
    "a port": (lambda: serve_metrics(70000, dict).__enter__(), "--metrics 70000: "),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", SAID)
def test_it_is_said(case: str) -> None:
    call, said = SAID[case]
    with pytest.raises((FedrecError, messages.RejectedReplyError)) as error:
        call()
    assert str(error.value).startswith(said), str(error.value)


def test_a_header_that_is_no_table() -> None:
    packed = messages.pack(messages.Message({}))
    with pytest.raises(messages.RejectedReplyError, match="the header is no table"):
        messages.unpack(packed.replace(b"{}", b"[]"))


@pytest.mark.parametrize("key", ["protocol", "run", "round", "hash"])
def test_a_reply_to_another_request(key: str) -> None:
    asked = {"protocol": 1, "run": "a", "round": 2, "hash": "h", "devices": [0]}
    reply = messages.Message({**asked, "count": 1}, {})
    messages.validate_reply(reply, asked, {})
    reply.header[key] = "other"
    with pytest.raises(messages.RejectedReplyError, match=f"^{key} is not that of the request$"):
        messages.validate_reply(reply, asked, {})


@pytest.mark.parametrize("count", [-1, 2, True, 1.0, None, "1"])
def test_a_count_that_nobody_can_have(count: object) -> None:
    asked = {"protocol": 1, "run": "a", "round": 2, "hash": "h", "devices": [0]}
    with pytest.raises(messages.RejectedReplyError, match="count is not a number of the devices asked"):
        messages.validate_reply(messages.Message({**asked, "count": count}, {}), asked, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: [", "is not the configuration of a run: while parsing"),
        ("- 1", "is not the configuration of a run: --resume takes the folder that a run printed"),
        ("run: x", "is not the configuration of a run: --resume takes the folder that a run printed"),
    ],
)
def test_a_configuration_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(FedrecError) as error:
        settings.read(tmp_path / "config.yaml")
    assert str(error.value).startswith(f"{tmp_path / 'config.yaml'} {said}")


def test_a_policy_that_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("privacy = 3\nparticipation = 4\n")
    with pytest.raises(FedrecError, match=r"policy\.toml: privacy must be a table, \[privacy\]"):
        ConsentPolicy.load(path)
    with pytest.raises(FedrecError, match=r"policy\.toml: participation must be a table, \[participation\]"):
        Participation.of(Home(tmp_path))
    path.write_text("participation = \n")
    for read in (lambda: ConsentPolicy.load(path), lambda: Home(tmp_path).table("participation")):
        with pytest.raises(FedrecError, match=r"policy\.toml: .*line 1"):
            read()


def test_a_damaged_archive_says_to_fetch_it_again(tmp_path: Path) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(FedrecError, match=r"ml-100k\.zip: truncated or damaged archive \(.*: download it again"):
        open_files(tmp_path, "ml-100k", "u.data")
    with pytest.raises(FedrecError, match=r"no such file or folder; dataset\.path names ml-100k\.zip or its unpacked"):
        open_files(tmp_path / "gone", "ml-100k", "u.data")
    with pytest.raises(FedrecError, match=r"holds neither u\.item, nor ml-1m/u\.item, nor ml-1m\.zip; dataset"):
        open_files(tmp_path, "ml-1m", "u.item")


def test_a_path_that_flower_could_not_be_told_of(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match=r"a path without quotes and backslashes is needed; choose it with output="):
        runs.start(ServerHome(tmp_path), SimpleNamespace(path=tmp_path / "a\\b"), print)  # type: ignore[arg-type]


def test_a_device_that_is_not_up(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match="not up"):
        client(["health", "--home", str(tmp_path)])
    with pytest.raises(FedrecError, match="this device is not up"):
        processes.down(tmp_path, "this device")


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fedrec.numpy_engine.node", None)
    with pytest.raises(FedrecError, match=r"engine=light is not there \(.*\): use engine=torch"):
        dataset.train_on("light", None, None, False)  # type: ignore[arg-type]
    assert builtins.__import__("fedrec.numpy_engine")


@pytest.mark.parametrize(("error", "said"), [("Traceback\nValueError: no\n", "ValueError: no"), ("", "no reason")])
def test_an_audit_whose_trial_failed(error: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = SimpleNamespace(returncode=1, stderr=error, stdout="")
    monkeypatch.setattr(auditor, "subprocess", SimpleNamespace(run=lambda *_, **__: done))
    with pytest.raises(FedrecError, match=f"^the noise trial failed: {said}$"):
        auditor.apart(SimpleNamespace(kind="noise", json=dict))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "out", "err", "said"),
    [
        (0, 'noise {"success": false, "error-message": "no such\\n  run"}', "", "flwr list: no such run"),
        (1, "", "cannot\nconnect", "flwr list: cannot connect"),
        (0, "{damaged", "", "flwr list: {damaged"),
        (0, "nothing", "", "flwr list: nothing"),
    ],
)
def test_what_flower_refuses_is_said_in_its_words(
    status: int, out: str, err: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = SimpleNamespace(returncode=status, stdout=out, stderr=err)
    monkeypatch.setattr(superlink.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(FedrecError) as error:
        superlink.call(tmp_path, "list")
    assert str(error.value) == said


def test_what_flower_answers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[list[str]]()

    def answer(command: list[str], **_: Any) -> SimpleNamespace:
        asked.append(command[1:])
        said = {"success": True, "run-id": 7, "runs": [{"status": "running"}]}
        return SimpleNamespace(returncode=0, stdout="Loading...\n" + json.dumps(said), stderr="")

    monkeypatch.setattr(superlink.subprocess, "run", answer)
    assert superlink.start_run(tmp_path, "/runs/a b") == "7"
    assert superlink.run_status(tmp_path, "7") == "running"
    assert asked[0][:2] == ["run", str(app_dir())] and 'resume="/runs/a b"' in asked[0]
    assert asked[1][0] == "list" and asked[1][-4:] == ["--run-id", "7", "--format", "json"]


class Clock:
    """A clock that goes on a second whenever somebody sleeps, and does something then."""

    def __init__(self, happens: dict[int, Callable[[], None]]) -> None:
        self.now, self._happens = 0, happens

    def monotonic(self) -> float:
        return float(self.now)

    def sleep(self, seconds: float) -> None:
        self.now += 1
        self._happens.get(self.now, lambda: None)()


def followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, happens: dict[int, Callable[[], None]], status: str, up: bool
) -> tuple[list[str], bool]:
    told, said = folder / "told", list[str]()
    told.write_text("")
    home = SimpleNamespace(log=folder / "log", flower=folder, address=lambda: SimpleNamespace(port=1))
    monkeypatch.setattr(runs, "time", Clock({**happens, 60: lambda: pytest.fail("it never ends")}))
    monkeypatch.setattr(runs.superlink, "run_status", lambda *_: status)
    monkeypatch.setattr(runs.processes, "listens", lambda port: up)
    return said, runs.follow(home, "7", told, said.append)  # type: ignore[arg-type]


def test_a_run_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end() -> None:
        (tmp_path / "told").write_text("round 1\nround 2\n")
        (tmp_path / "metrics.json").write_text("{}")

    said, ended = followed(tmp_path, monkeypatch, {3: end}, "running", True)
    assert ended and said == ["round 1", "round 2"]


@pytest.mark.parametrize(
    ("status", "up", "wrote", "expected"),
    [
        ("finished:failed", True, "", "the run ended before its last round; Flower's log says more: "),
        ("running", False, "", r"is gone, and the run with it: fedrec server up, then go on with fedrec server start"),
        ("running", True, "{failed} no budget is left\n", "^no budget is left$"),
    ],
)
def test_a_run_that_fails_says_how_to_go_on(
    status: str, up: bool, wrote: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = wrote.replace("{failed}", runs.FAILED)
    happens = {2: lambda: None if not text else (tmp_path / "told").write_text(text)}
    with pytest.raises(FedrecError, match=expected):
        followed(tmp_path, monkeypatch, happens, status, up)  # type: ignore[arg-type]


def test_a_refusal_is_an_error_of_ours() -> None:
    assert issubclass(RefusedError, FedrecError)
