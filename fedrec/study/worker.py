"""A process that runs trials, one after the other: a JSON line in for each, JSON lines out for what happens.

`python -m fedrec.study.worker` ends when its standard input does, so that none outlives a study that was killed:
what a trial had not made durable is done again when the study is resumed.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fedrec.errors import BudgetExceededError, FedrecError
from fedrec.evaluation import baselines
from fedrec.experiment.automatic import Compose, load_chosen
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import Settings, read
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, new_run
from fedrec.storage.run_folder import RunFolder, save_table
from fedrec.study.results import finished, write_spent

if TYPE_CHECKING:
    from fedrec.federated.state import RoundReport, RunContext


@dataclass(slots=True)
class Told(Progress):
    """Turns a run's progress into events."""

    def note(self, text: str) -> None:
        """Leave words out, those of the data set too: they are in the run folder, and the study says them once."""

    def remark(self, text: str) -> None:
        """Tell what the trial's results lack."""
        tell(self.stream, event="remark", text=text)

    def start(self, label: str, context: "RunContext") -> None:
        """Remember how many rounds there will be."""
        self.rounds = context.experiment.rounds

    def round(self, report: "RoundReport") -> None:
        """Tell the share of rounds that is done."""
        tell(self.stream, event="round", done=report.round / self.rounds)

    def end(self, context: "RunContext", played: int) -> None:
        """Leave an early end to the run's metrics."""


def tell(stream: TextIO, **event: Any) -> None:
    """Write one event."""
    print(json.dumps(event), file=stream, flush=True)


def trial(folder: RunFolder, overrides: list[str], stream: TextIO, compose: Compose = load_chosen) -> None:
    """Run a trial in its folder, from where it stands, and note what it spent.

    A trial that was killed in the middle of a round has lost that round and can't pay for its last: what is left of it
    is kept beside the others, as spent, and the trial is run anew.
    """
    resumed = folder.config.exists()
    try:
        whole = played(folder, overrides, stream, compose)
    except BudgetExceededError:
        if not resumed:
            raise
        write_spent(read(folder.config), folder)
        whole = False
    if not whole and resumed:
        folder.path.rename(next(path for n in range(1, 10_000) if not (path := lost(folder.path, n)).exists()))
        whole = played(folder, overrides, stream, compose)
    if not whole:
        raise FedrecError(f"{folder.path} ended early: another round would have passed the budget")


def played(folder: RunFolder, overrides: list[str], stream: TextIO, compose: Compose) -> bool:
    """Run what is still to do of a trial; say whether all of its rounds were played."""
    if folder.config.exists():
        settings = read(folder.config)
    else:
        settings = compose([*overrides, "name=null"])
        document = {**settings.document, "name": folder.path.name, "output": str(folder.path.parent)}
        settings, folder = new_run(Settings({**document, "overwrite": False}))
    if not (folder.path / "metrics.json").exists():
        Simulation(settings, folder, progress=Told(stream)).simulate()
    write_spent(settings, folder)
    return finished(folder.path) is not None


def lost(path: Path, number: int) -> Path:
    """Return where what is left of a trial that could not be ended is kept."""
    return path.with_name(f"{path.name}.lost{number}")


def references(
    folder: RunFolder, overrides: list[str], names: list[str], stream: TextIO, compose: Compose = load_chosen
) -> None:
    """Evaluate baselines on the test, each into a file of its own, those that are there already left alone."""
    experiment = compose(overrides).experiment
    dataset = load_dataset(experiment)
    folder.exact.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number, name in enumerate(names, 1):
        path = folder.exact / f"users_{name}.npz"
        if not path.exists():
            if name == baselines.LOCAL:
                rows = baselines.evaluate_alone(dataset.catalogue, dataset.devices, "test", experiment.evaluation)
            else:
                rows = baselines.evaluate(name, dataset.devices, "test", experiment.evaluation)
            part = path.with_suffix(".part")
            save_table(part, rows)
            part.replace(path)
        tell(stream, event="round", done=number / len(names))


def perform(task: Mapping[str, Any], stream: TextIO, compose: Compose = load_chosen) -> None:
    """Carry out one task, a trial or the references; its progress goes to `stream` as events."""
    folder = RunFolder(Path(task["folder"]))
    if task["kind"] == "trial":
        trial(folder, task["overrides"], stream, compose)
    else:
        references(folder, task["overrides"], task["names"], stream, compose)


def serve(commands: "queue.Queue[str]", stream: TextIO) -> None:
    """Carry out commands for ever."""
    while True:
        task = json.loads(commands.get())
        try:
            perform(task, stream)
        except FedrecError as error:
            tell(stream, event="failed", why=str(error))
        except Exception:  # a trial may not take the others with it
            tell(stream, event="failed", why=traceback.format_exc())
        else:
            tell(stream, event="finished")


def listen(commands: "queue.Queue[str]") -> None:
    """Pass commands on until standard input ends, and then end the process wherever it stands."""
    for line in sys.stdin:
        commands.put(line)
    os._exit(0)


def main() -> None:
    """Serve the study that started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the study, which ends this process
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing that prints can get between events
    commands = queue.Queue[str]()
    threading.Thread(target=listen, args=(commands,), daemon=True).start()
    serve(commands, stream)


if __name__ == "__main__":
    main()
