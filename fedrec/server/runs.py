"""`fedrec server start`: prepare a run's folder, hand it to the SuperLink, and tell how it goes."""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.automatic import load_chosen
from fedrec.experiment.settings import Settings, load, validate
from fedrec.flower import superlink
from fedrec.ops import processes
from fedrec.server.home import ServerHome, count
from fedrec.simulation import new_run, resumed_run
from fedrec.storage.run_folder import RunFolder, atomic_write

TOLD = "progress.log"
LONGEST_NAME = 47  # of a run: devices take 64 characters, 17 of which make it unlike any other
FAILED = "fedrec: "
LOOK_SECONDS, STATE_SECONDS = 0.5, 15.0
ENDED = "finished"
GONE_LOOKS = 2  # in a row, without anybody listening


def prepare(home: ServerHome, overrides: Sequence[str], resume: str | None) -> RunFolder:
    """Return the folder of a new run on the admitted devices, or of one to go on with."""
    if resume is not None:
        if overrides:
            raise FedrecError(f"--resume {resume} goes on with the run's own settings: leave out {' '.join(overrides)}")
        return resumed_run(resume)[1]
    chosen = [] if any(text.startswith("dataset=") for text in overrides) else ["dataset=devices"]
    asked = load_chosen([*chosen, *overrides], lambda given: Settings(completed(home, load(given).document)))
    if asked.chosen:
        print(asked.chosen, file=sys.stderr)
    check_name(asked.document["name"])
    return new_run(validate(asked), simulated=False)[1]


def check_name(name: str | None) -> None:
    """Refuse a run's name that devices don't take: with what makes it unlike any other, 64 plain characters."""
    if name is not None and not re.fullmatch(f"[ -~]{{1,{LONGEST_NAME}}}", name):
        raise FedrecError(f"name={name}: devices take at most {LONGEST_NAME} plain characters; choose a shorter one")


def completed(home: ServerHome, document: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with what this server knows; refuse what would not be a run on real devices."""
    dataset, privacy = document["dataset"], document["privacy"]
    if "histories" not in dataset:
        raise FedrecError("dataset=devices is what real devices train on: simulate the others with fedrec simulate")
    if dataset["histories"] is not None:
        raise FedrecError("dataset.histories is for simulations: on real devices histories stay where they are")
    if "population_epsilon" in privacy and privacy["population_epsilon"] is None:
        raise RefusedError(
            "privacy.population_epsilon is not set: on real people all runs together need a limit, such as "
            f"privacy.population_epsilon={privacy.get('epsilon')}"
        )
    if str(privacy.get("_target_")).endswith(".UserSecure"):
        raise RefusedError(
            "privacy=user_secure is for simulations: real devices do not answer the messages of a secure sum. Take "
            "privacy=user_local, or privacy=user where they trust this server"
        )
    if document["cohort"].get("dropout"):
        raise FedrecError("cohort.dropout simulates devices that stay away: real ones do so themselves; leave it at 0")
    path = None if dataset["path"] is None else str(Path(dataset["path"]).resolve())
    population = dataset["population"] or home.population
    return {
        **document,
        "output": str(Path(document["output"]).resolve()),
        "dataset": {**dataset, "path": path, "population": population, "devices": count(home)},
    }


def start(home: ServerHome, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Start the run and tell how it goes until it ends; SIGINT or SIGTERM stops it."""
    path = folder.path.resolve()
    if '"' in str(path) or "\\" in str(path):
        raise FedrecError(f"{path}: a path without quotes and backslashes is needed; choose it with output=")
    atomic_write(path / TOLD, b"", 0o600)  # who answered, late or not at all: for the operator alone
    run = superlink.start_run(home.flower, str(path))
    say(f"Run {path.name} started; Ctrl-C stops it")
    ended = False
    with processes.stoppable():
        ended = follow(home, run, path / TOLD, say)
    if not ended:
        with contextlib.suppress(FedrecError):
            superlink.stop_run(home.flower, run)
        say(f"Stopped; go on with fedrec server start --resume {path}")
        raise SystemExit(130)


def follow(home: ServerHome, run: str, told: Path, say: Callable[[str], None]) -> bool:
    """Say what the run tells, until it has ended; return whether it has, and raise where it failed."""
    looked, ended, gone = time.monotonic(), False, 0
    with told.open() as file:
        while True:
            for line in iter(file.readline, ""):
                if line.startswith(FAILED):
                    raise FedrecError(line.removeprefix(FAILED).strip())
                say(line.rstrip("\n"))
            if (told.parent / "metrics.json").exists():
                return True
            if ended:
                raise FedrecError(
                    f"the run ended before its last round; Flower's log says more: {home.log}; "
                    f"go on with fedrec server start --resume {told.parent}"
                )
            if time.monotonic() - looked > STATE_SECONDS:
                # Asking takes a while: what the run wrote meanwhile is looked at once more before it counts as ended.
                ended, looked = state_of(home, run).startswith(ENDED), time.monotonic()
                gone = 0 if processes.listens(home.address().port) else gone + 1
                if gone == GONE_LOOKS:
                    raise FedrecError(
                        f"the server at {home.address()} is gone, and the run with it: fedrec server up, "
                        f"then go on with fedrec server start --resume {told.parent}"
                    )
            time.sleep(LOOK_SECONDS)


def state_of(home: ServerHome, run: str) -> str:
    """Return what Flower says of a run; that the server is gone for now is no end of it."""
    try:
        return superlink.run_status(home.flower, run)
    except FedrecError as error:
        return f"unknown: {error}"
