"""Kills runs with kill -9 at named and at random points, resumes them, and counts what the ledger did not know.

    python -m simulations.crash_tests.runs --kills 1000 --privacy user

One kill in three falls on a named point of a round, one on any line of the files that the guarantee rests on, one at
any time. A release is a checkpoint on disk: from then on somebody may have read it. Ends with status 1 where a promise
was broken.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fedrec.data.dataset import Dataset
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.settings import load
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.federated.state import RunContext, open_run_context
from fedrec.paths import ledger_path
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.storage.run_folder import RunFolder, load_checkpoint
from simulations.crash_tests.points import kill_at, kill_at_line, points
from simulations.crash_tests.witness import Verdict, Witness, judge, watch

BATCH = 100  # kills on one ledger
LINES, SECONDS = 4000, 0.4  # a random kill comes within so many lines or so long
LONGEST_SECONDS = 120.0  # a child that never comes to its point is killed then
TINY = [
    "dataset=synthetic", "dataset.users=12", "dataset.items=16", "dataset.interactions=150", "model=mf", "model.dim=2",
    "algorithm=fedsgd", "rounds=100000", "evaluation.every=1000000", "evaluation.baselines=[]",
]  # fmt: skip
MORE = {"banded": ["cohort.size=4", "rounds=1000"]}  # turns, so that noise is correlated


@dataclass(frozen=True, slots=True)
class Scene:
    """One run in one folder, with a ledger and a witness of its own."""

    experiment: Experiment
    dataset: Dataset
    path: Path

    @property
    def witness(self) -> Witness:
        """Where draws and releases are noted."""
        return Witness(self.path / "witness.jsonl")

    def open(self) -> RunContext:
        """Open the run as `fedrec simulate --resume` does: ledger, checkpoint, nodes."""
        plan, mechanism = self.experiment.plan(self.dataset), self.experiment.mechanism
        folder = RunFolder(self.path / "run")
        ledger = Ledger.open("killed", "run", mechanism, plan, plan.population)
        if (saved := load_checkpoint(folder.checkpoints)) is not None:
            ledger.check_holds(saved.notes["ledger"])
            self.witness.released(saved)
        return open_run_context(self.experiment, self.dataset, LocalTransport(1), folder, ledger, "train")

    def surplus(self) -> int:
        """Return how many rounds are charged and not released, without disturbing anything."""
        saved = load_checkpoint(self.path / "run" / "checkpoint")
        if not ledger_path("killed").exists():
            return 0
        database = sqlite3.connect(f"file:{ledger_path('killed')}?mode=ro", uri=True)
        try:
            (charged,) = database.execute("SELECT count(*) FROM entries WHERE kind = 'reserve'").fetchone()
        except sqlite3.OperationalError:  # killed before it had a table
            charged = 0
        database.close()
        return charged - (saved.round if saved else 0)


def child(scene: Scene, arm: Callable[[], None]) -> None:
    """Play rounds until killed; anything else that ends them is an error, and noted."""
    try:
        arm()
        context = scene.open()
        watch(context, scene.witness)
        for _ in run(context):
            pass
        raise RuntimeError("the run ended")
    except BaseException as error:
        scene.witness.note("error", text=repr(error))
        os._exit(1)


def one_kill(scene: Scene, arm: Callable[[], None], after_seconds: float) -> bool:
    """Let a child play until it kills itself or `after_seconds` have passed; say whether it died of the kill meant.

    A child that never came to its point in LONGEST_SECONDS did not: the point is no longer on the way of a round.
    """
    process = os.fork()
    if process == 0:
        child(scene, arm)
    end = time.monotonic() + after_seconds
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.WIFSIGNALED(status) and (end < float("inf") or after_seconds < LONGEST_SECONDS)
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.001)


def arms(scene: Scene, number: int, chance: random.Random) -> tuple[Callable[[], None], float]:
    """Return how kill `number` comes about: (what the child does to itself, when the parent does it)."""
    if number % 3 == 0:
        named = list(points(scene.experiment.mechanism).items())
        name, point = named[(number // 3) % len(named)]
        times = 1 if name.startswith("opening") else chance.choice((1, 1, 2, 5))
        return (lambda: kill_at(point, times)), LONGEST_SECONDS
    if number % 3 == 1:
        line = chance.randrange(1, LINES)
        return (lambda: kill_at_line(line)), LONGEST_SECONDS
    return (lambda: None), chance.uniform(0, SECONDS)


def batch(experiment: Experiment, dataset: Dataset, numbers: range, seed: int) -> Verdict:
    """Kill one run as often as `numbers` says, and judge it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEDREC_STATE"] = f"{folder}/state"
        scene, chance = Scene(experiment, dataset, Path(folder)), random.Random(f"{seed} {numbers}")
        RunFolder(scene.path / "run").create("{}\n")
        before = most = errors = 0
        for number in numbers:
            errors += not one_kill(scene, *arms(scene, number, chance))
            after = scene.surplus()
            before, most = after, max(most, after - before)
        for line in scene.witness.lines():
            if line["what"] == "error":
                print(f"  a child ended by itself: {line['text']}", file=sys.stderr)
        return judge(scene.open(), scene.witness, len(numbers), most, errors)


def warm(experiment: Experiment, dataset: Dataset) -> None:
    """Play one round here, so that children need not import what only a first round imports (seconds, of torch)."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEDREC_STATE"] = f"{folder}/state"
        scene = Scene(experiment, dataset, Path(folder))
        RunFolder(scene.path / "run").create("{}\n")
        next(run(scene.open()))


def killed(privacy: str, kills: int, seed: int, told: Callable[[Verdict], None] = lambda verdict: None) -> Verdict:
    """Return the verdict over so many kills of tiny runs under a mechanism; `told` hears of it after each batch."""
    torch.set_num_threads(1)
    experiment = load([*TINY, f"privacy={privacy}", *MORE.get(privacy, [])]).experiment
    dataset = load_dataset(experiment)
    experiment = experiment.calibrated(dataset)
    found, state = Verdict(), os.environ.get("FEDREC_STATE")
    try:
        warm(experiment, dataset)
        for first in range(0, kills, BATCH):
            found += batch(experiment, dataset, range(first, min(kills, first + BATCH)), seed)
            told(found)
    finally:
        os.environ.pop("FEDREC_STATE", None) if state is None else os.environ.update(FEDREC_STATE=state)
    return found


def main() -> int:
    """Kill, judge, report."""
    parser = argparse.ArgumentParser(description="Kill runs, resume them, and judge their ledger.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--privacy", default="user")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    start = time.monotonic()
    found = killed(
        options.privacy,
        options.kills,
        options.seed,
        lambda verdict: print(f"{verdict.kills} kills, under-counted {verdict.under_counted}", file=sys.stderr),
    )
    told = {**asdict(found), "under_counted": found.under_counted, "seconds": round(time.monotonic() - start, 1)}
    print(json.dumps(told, indent=2) if options.json else "\n".join(f"{k:<32}{v:>8}" for k, v in told.items()))
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
