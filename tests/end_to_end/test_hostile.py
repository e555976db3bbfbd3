"""Hostile devices and a real server on loopback: each reply is rejected by name, and the others' model is the same."""

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedrec.cli.data import hand_out
from fedrec.data.io.csv_files import read_device_file
from fedrec.device.home import Enrolment, Home, enroll
from fedrec.device.store import Event
from fedrec.experiment.settings import load
from fedrec.messages import Message
from fedrec.ops.keys import device_id, new_key
from fedrec.ops.processes import free_port
from fedrec.server import certificates
from fedrec.server.home import Registry, ServerHome
from tests.end_to_end.test_walk_through import processes_of
from tests.support.devices import WILLING
from tests.support.fleet import Answer, FleetDevice, admit_all, played
from tests.support.hostile_replies import HOSTILE, LIES, NOT_STORED, Honest, Store
from tests.support.tiny import SMALL

ROOT = Path(__file__).parents[2]
HONEST = 2
HOSTILE_IN, ROUNDS_A_RUN, GROWTH_MIB_AN_HOUR = 10, 10, 1.0
SECONDS = float(os.environ.get("HOSTILE_SECONDS", "900"))  # of rounds with a hostile device, an hour in the notes
SHARING = "[sharing]\nevaluation = true\n"


def declines(honest: Honest) -> Store:
    """Return what a device says whose policy said no: no fault, and it is not in the model."""
    return Honest(Message({"declined": True}), honest.asked).packed()


def silent(_: Honest) -> None:
    return None


@dataclass
class Town:
    """A server that is up, and devices of it in this process, each with a label."""

    path: Path
    devices: dict[str, FleetDevice] = field(default_factory=dict)
    engine: str = "light"

    def __post_init__(self) -> None:
        self.server, self.port = ServerHome(self.path / "server"), free_port()
        self.files = self.path / "files"
        hand_out(load(SMALL).experiment.dataset.load(), HONEST, self.files)
        self.server.make()
        certificates.ensure(self.server.certificates, ["127.0.0.1"])
        (self.server.path / "limits.toml").write_text("address_connections = 900\nheader_seconds = 300\n")

    def settle(self, label: str, answers: Mapping[str, Answer], **more: int) -> None:
        """Enroll and admit a device; all but the honest ones are copies of the first, with keys of their own."""
        number = len(self.devices) + 1
        home, address = Home(self.path / f"device-{number}"), f"localhost:{self.port}"
        if number > HONEST:
            shutil.copytree(self.path / "device-1", home.path)
            private, public = new_key()
            home.key.write_bytes(private)
            home.public_key.write_bytes(public)
        else:
            enroll(home, Enrolment(address, None, self.engine), None)
            home.policy.write_text(WILLING + SHARING)
            store = home.store()
            rows = read_device_file(self.files / f"{number}.csv")
            store.log_events(Event(row.item, row.time, row.kind, row.value) for row in rows)
            store.close()
        Registry(self.server).admit(home.public_key.read_bytes())
        self.devices[label] = FleetDevice(home, address, self.server.authority, answers, **more)  # type: ignore[arg-type]

    def fedrec(self, *words: str, timeout: float = 300) -> str:
        command = [sys.executable, "-m", "fedrec", "server", *words, "--home", str(self.server.path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def up(self) -> Generator[None]:
        admit_all(self.server)
        self.fedrec("up", "--background", "--port", str(self.port))
        try:
            yield
        finally:
            self.fedrec("down")

    def name(self, label: str) -> str:
        return device_id(self.devices[label].home.public_key.read_bytes())

    def revoke_all_but(self, count: int) -> None:
        self.fedrec("revoke", *(self.name(label) for label in list(self.devices)[count:]))

    def train(self, name: str, *overrides: str, model: Sequence[str] = ("model=mf", "model.dim=4")) -> str:
        run = [*model, "privacy=none", "rounds=2", f"name={name}", *overrides]
        return self.fedrec(
            "start", f"dataset.path={self.files / 'items.csv'}", f"output={self.path / 'runs'}", *run, timeout=900
        )

    def model(self, name: str) -> bytes:
        return (self.path / "runs" / name / "model.safetensors").read_bytes()

    def rounds(self, name: str) -> list[dict]:
        lines = (self.path / "runs" / name / "exact" / "rounds.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@dataclass
class Memory:
    """The most memory that a server's processes had together while somebody looked."""

    path: Path
    most_mib: float = 0.0

    @contextlib.contextmanager
    def watched(self) -> Generator["Memory"]:
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watcher.start()
        try:
            yield self
        finally:
            over.set()
            watcher.join()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(0.5):
            resident = 0.0
            for pid in processes_of(self.path):
                with contextlib.suppress(OSError, AttributeError):
                    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
                    resident += int(found[1]) / 1024  # type: ignore[index]
            self.most_mib = max(self.most_mib, resident)


def inhabited(town: Town) -> Town:
    for number in range(HONEST):
        town.settle(f"honest {number}", {})
    return town


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return inhabited(Town(tmp_path))


@pytest.mark.slow
def test_every_hostile_reply_is_rejected_by_name_and_the_others_model_is_the_same(town: Town) -> None:
    broken = [(name, make) for name, make in HOSTILE.items() if not name.startswith(NOT_STORED)]
    # What is done with Flower's objects is the same for every kind: a third of them stands for all outside of training.
    chosen = {"train": broken, "hello": broken[::3], "evaluate": broken[1::3]}
    for kind, makes in chosen.items():
        for name, make in [*makes, *LIES[kind].items()]:
            town.settle(f"{kind}: {name}", {kind: make} | ({"train": declines} if kind == "evaluate" else {}))
    start = time.monotonic()
    with town.up(), Memory(town.path).watched() as memory, played(list(town.devices.values())):
        said = town.train("hostile", "cohort.deadline_seconds=600")
        hostile_mib, memory.most_mib = memory.most_mib, 0.0
        town.revoke_all_but(HONEST)
        town.train("reference", "cohort.deadline_seconds=600")
    seconds = time.monotonic() - start
    print(f"{len(town.devices)} devices, {seconds:.0f} s, {hostile_mib:.0f} MiB, {memory.most_mib:.0f} MiB without")
    assert town.model("hostile") == town.model("reference")
    assert [line["answered"] for line in town.rounds("hostile")] == [HONEST, HONEST]
    lines = said.splitlines()
    assert all(len(line) <= 250 and line.isprintable() for line in lines)
    for label in town.devices:
        kind, name = label.partition(": ")[::2]
        told = {"train": "is set aside for this run: ", "evaluate": "has no result: "}.get(kind)
        if told is not None:
            assert any(line.startswith(f"device {town.name(label)} {told}") for line in lines), label
    away = [line for line in lines if " is turned away: " in line]
    turned_away = [line for line in away if "is set aside" not in line]  # by what a train reply did, told before
    assert len(turned_away) == len(chosen["hello"]) + len(LIES["hello"]), said
    values = json.loads((town.path / "runs" / "hostile" / "metrics.json").read_text())
    assert values["test"]["users"] == HONEST
    assert hostile_mib < memory.most_mib + 64


@pytest.mark.slow
def test_whatever_a_device_uploads_or_not_the_deadline_holds(town: Town) -> None:
    town.settle("silent", {"train": silent, "evaluate": silent})
    town.settle("announces", {}, uploads=0)
    town.settle("half", {}, uploads=3)
    town.settle("drips", {}, drips=True)
    for name in HOSTILE:
        if name.startswith(NOT_STORED):
            town.settle(name, {"train": HOSTILE[name]})
    with town.up(), played(list(town.devices.values()), threads=len(town.devices)):
        said = town.train("stalled", "cohort.deadline_seconds=15")
        town.revoke_all_but(HONEST)
        town.train("reference", "cohort.deadline_seconds=60")
        seconds = [line["seconds"] for line in town.rounds("stalled")]
        print(f"rounds of {seconds} s on a deadline of 15 s")
    assert max(seconds) < 20, said
    answered = [line["answered"] for line in town.rounds("stalled")]
    assert answered[0] and answered[1] == HONEST, said  # a first answer may take longer on a busy machine
    assert answered[0] < HONEST or town.model("stalled") == town.model("reference")
    assert "announced and not uploaded" in said and town.path.joinpath("runs", "stalled", "metrics.json").exists()


class AnyFault:
    """Answers each message with another fault, in an order that a seed decides; one hello in four is honest."""

    def __init__(self, seed: int) -> None:
        broken = {name: make for name, make in HOSTILE.items() if not name.startswith(NOT_STORED)}
        self._draw = random.Random(seed)
        self._makes = {kind: list((broken | LIES[kind]).values()) for kind in ("train", "hello", "evaluate")}

    def answers(self) -> dict[str, Answer]:
        return {kind: self._answer(kind) for kind in self._makes}

    def _answer(self, kind: str) -> Answer:
        def answer(honest: Honest) -> Store:
            faulty = kind != "hello" or self._draw.random() < 0.25
            return self._draw.choice(self._makes[kind])(honest) if faulty else honest.packed()

        return answer


def held_mib(pids: list[int]) -> float:
    """Return the memory that processes hold for themselves, without the pages of files that the system can drop."""
    kib = (re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in pids)
    return sum(int(found[1]) for found in kib if found) / 1024


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 900)
def test_rounds_go_on_and_memory_does_not_grow_with_one_hostile_device_in_ten(town: Town) -> None:
    for number in range(HONEST, HOSTILE_IN - 1):
        town.settle(f"honest {number}", {})
    town.settle("hostile", AnyFault(15).answers())
    found = list[tuple[float, float]]()
    with town.up(), played(list(town.devices.values())):
        standing, start = processes_of(town.path), time.monotonic()
        for run in itertools.count():
            town.train(f"run-{run}", f"rounds={ROUNDS_A_RUN}", "cohort.deadline_seconds=60")
            answered = [line["answered"] for line in town.rounds(f"run-{run}")]
            assert answered == [HOSTILE_IN - 1] * ROUNDS_A_RUN, (run, answered)
            found.append(((time.monotonic() - start) / 3600, held_mib(standing)))
            if time.monotonic() - start > SECONDS:
                break
    hours, mib = zip(*found[len(found) // 4 :], strict=True)  # what a server learns at first is no growth
    growth = float(np.polyfit(hours, mib, 1)[0]) if len(hours) > 2 else 0.0
    print(f"{len(found)} runs of {ROUNDS_A_RUN} rounds, {mib[0]:.1f} to {mib[-1]:.1f} MiB: {growth:+.2f} MiB an hour")
    assert mib[-1] - mib[0] < GROWTH_MIB_AN_HOUR


@pytest.mark.slow
def test_a_device_that_is_revoked_while_a_run_goes_on_is_asked_no_more(town: Town) -> None:
    town.settle("revoked", {})
    with town.up(), played(list(town.devices.values())):
        run = threading.Thread(target=town.train, args=("live", "rounds=12", "cohort.deadline_seconds=60"))
        run.start()
        lines = town.path / "runs" / "live" / "exact" / "rounds.jsonl"
        while not lines.exists() or len(lines.read_text().splitlines()) < 2:
            time.sleep(0.1)
        town.fedrec("revoke", town.name("revoked"))
        done = len(lines.read_text().splitlines())
        run.join()
    answered = [line["answered"] for line in town.rounds("live")]
    assert len(answered) == 12 and done < 10, (done, answered)
    assert answered[0] == HONEST + 1 and set(answered[done + 1 :]) == {HONEST}, (done, answered)
    assert max(line["seconds"] for line in town.rounds("live")[done + 1 :]) < 60


SEEDED = """
from fedrec.privacy import noise
noise.make_noise_source = lambda randomness, key: noise.SeededNoise(*key)
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["popularity", "ease"])
def test_what_is_released_through_a_superlink_is_what_the_simulation_releases(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit. Noise on real people is never seeded: every process is patched as it starts."""
    town = inhabited(Town(tmp_path, engine="torch"))
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(SEEDED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'patch'}{os.pathsep}{ROOT}")
    settings = ["privacy=user", "privacy.epsilon=8", "privacy.population_epsilon=8"]
    settings += ["algorithm.shortest_history=2"]  # `auto` knows a simulation's histories
    with town.up(), played(list(town.devices.values())):
        town.train("real", *settings, model=[f"model={model}"])
    data = [
        f"dataset.path={town.files / 'items.csv'}",
        f"dataset.histories={town.files}",
        f"output={town.path / 'runs'}",
    ]
    here = ["simulate", "dataset=devices", *data, f"model={model}", *settings, "evaluation.baselines=[]", "name=here"]
    done = subprocess.run(
        [sys.executable, "-m", "fedrec", *here], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    real, simulated = (sorted((town.path / "runs" / name / "releases").iterdir()) for name in ("real", "here"))
    assert [path.name for path in real] == [path.name for path in simulated] and real
    assert [path.read_bytes() for path in real] == [path.read_bytes() for path in simulated]
    assert town.model("real") == town.model("here")


@pytest.mark.slow
def test_runs_start_again_after_what_starts_them_was_killed(town: Town) -> None:
    with town.up(), played(list(town.devices.values())):
        town.train("before")
        (starter,) = processes_of(town.path, "flower-superexec", "--parent-pid")[-1:]
        os.kill(starter, signal.SIGKILL)
        town.train("after")
    assert town.model("before") == town.model("after")
