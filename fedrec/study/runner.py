"""A study from its plan to its table and picture, from wherever it stands; and what a person sees meanwhile."""

import fcntl
import json
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from fedrec.errors import FedrecError
from fedrec.experiment.automatic import load_chosen
from fedrec.experiment.settings import Settings
from fedrec.privacy.wording import format_epsilon
from fedrec.report.console import duration, terminal_width
from fedrec.storage.run_folder import atomic_write
from fedrec.study.plan import Study, of
from fedrec.study.plot import caption, draw, draw_bare
from fedrec.study.pool import Pool, Task
from fedrec.study.results import SPENT, Cost, collect, costs, finished, read_spent
from fedrec.study.tables import to_csv, to_markdown

PLAIN_SECONDS = 10.0  # between two plain lines


@dataclass(slots=True)
class StudyProgress:
    """Tells how far a study is: on a terminal one line that overwrites itself, elsewhere a line now and then."""

    tasks: int
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.monotonic)
    told: float = 0.0
    shares: dict[str, float] = field(default_factory=dict[str, float])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    remarks: set[str] = field(default_factory=set[str])

    def share(self, name: str, done: float) -> None:
        """Hear that a share of an order is done."""
        self.shares[name] = done
        self._tell()

    def remark(self, name: str, text: str) -> None:
        """Hear what the results of an order lack; the same of several is said once."""
        what = text.partition(":")[0]
        if what not in self.remarks:
            self.remarks.add(what)
            self._say(f"{Path(name).name}: {text}")

    def _say(self, text: str) -> None:
        print(f"{chr(13)}\x1b[K{text}" if self.stream.isatty() else text, file=self.stream, flush=True)

    def ended(self, name: str, why: str | None) -> None:
        """Hear that an order has ended."""
        self.shares[name] = 1.0
        if why is not None:
            self.failed[Path(name).name] = why
        self._tell(f"{Path(name).name}: {'failed: ' + why.strip().splitlines()[-1] if why else 'done'}")

    def _tell(self, news: str = "") -> None:
        now, ended = time.monotonic(), sum(share == 1 for share in self.shares.values())
        done = sum(self.shares.values())
        left = (now - self.started) / max(done, 1e-9) * (self.tasks - done)
        line = f"{ended} of {self.tasks} done, {duration(now - self.started)} so far, about {duration(left)} left"
        if self.stream.isatty():
            end = "\n" if ended == self.tasks else ""
            news = f"{news}\n" if news else ""
            width = terminal_width(self.stream) - 1
            print(f"\r\x1b[K{news}{line[:width]}", end=end, file=self.stream, flush=True)
        elif news or now - self.told >= PLAIN_SECONDS:
            self.told = now
            print(f"{news + ': ' if news else ''}{line}", file=self.stream, flush=True)


PLAN = "study.json"


def begin(study: Study, folder: Path, compose: Callable[[Sequence[str]], Settings] = load_chosen) -> list[str]:
    """Make the folder of a study whose every trial can be composed; one that holds a study already is refused.

    Returns what `model=auto` chose, a line for each choice that names the first trial with it.
    """
    if (folder / PLAN).exists():
        raise FedrecError(f"{folder} holds a study already: go on with --resume {folder}, or choose another name=")
    chosen = dict[str, str]()
    for trial in study.trials()[: len(study.trials()) // len(study.seeds)]:
        settings = compose(trial.overrides)
        settings.experiment  # noqa: B018  # a mistake is told before anything runs
        if settings.chosen:
            chosen.setdefault(str(settings.chosen), trial.name)
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    atomic_write(folder / PLAN, study.to_json().encode())
    return [f"{trial}: {choice}" for choice, trial in chosen.items()]


def resumed(folder: Path) -> Study:
    """Return the study of a folder."""
    if not (folder / PLAN).exists():
        raise FedrecError(f"{folder}: no {PLAN} in it; --resume takes the folder that a study printed")
    return of(json.loads((folder / PLAN).read_text()), str(folder / PLAN))


@contextmanager
def alone(folder: Path) -> Generator[None, None, None]:
    """Hold a study's folder, so that two commands do not run its trials twice."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FedrecError(f"{folder}: another command is running this study") from error
        yield


def list_tasks(study: Study, folder: Path) -> list[Task]:
    """Return what is still to do: the trials that have not noted what they spent, and the references."""
    todo = list[Task]()
    missing = [n for n in study.references if not (folder / "references" / "exact" / f"users_{n}.npz").exists()]
    if missing:
        references = {"kind": "references", "folder": str(folder / "references"), "names": missing}
        todo.append({**references, "overrides": list(study.shared())})
    for trial in study.trials():
        run = folder / "trials" / trial.name
        if not (run / SPENT).exists() or finished(run) is None:
            todo.append({"kind": "trial", "folder": str(run), "overrides": list(trial.overrides)})
    return todo


def carry_out(study: Study, folder: Path, workers: int, watch: TextIO | None = None) -> dict[str, str]:
    """Run what is still to do; return why what failed did."""
    tasks = list_tasks(study, folder)
    seen = StudyProgress(len(tasks), watch or sys.stderr)
    with alone(folder), Pool(workers, folder / "workers.log") as pool:
        pool.run(tasks, seen)
    return seen.failed


def write(study: Study, folder: Path, failed: dict[str, str], picture: bool, command: str) -> str:
    """Write table.csv, table.md, cost.json and, if wanted, picture.png, picture.svg, figure.svg and
    caption.txt; return table.md."""
    results = collect(study, folder)
    spent = costs(read_spent((folder / "trials").iterdir()))
    atomic_write(folder / "table.csv", to_csv(results).encode())
    text = to_markdown(results, spent, failed, command)
    atomic_write(folder / "table.md", text.encode())
    plain = [{field: getattr(cost, field) for field in Cost.__dataclass_fields__} for cost in spent]
    atomic_write(folder / "cost.json", (json.dumps(plain, indent=2) + "\n").encode())
    if picture and results.lines and results.dataset:
        draw(results, spent, [folder / "picture.png", folder / "picture.svg"])
        draw_bare(results, folder / "figure.svg")
        atomic_write(folder / "caption.txt", f"{study.title}. {caption(results, spent)}\n".encode())
    return text


def expectation(study: Study, tasks: Sequence[Task]) -> str:
    """Return what a study is going to do, and what it will charge at most."""
    trials = study.trials()
    private = [trial.value for trial in trials if trial.value is not None]
    text = f"{study.name}: {len(trials)} trials ({len(study.methods)} methods), {len(tasks)} still to run"
    if study.vary == "privacy.epsilon" and private:
        text += (
            f"; {len(private)} are private, and each is charged to the ledger of its users: on real users at most "
            f"{format_epsilon(sum(private))} by plain addition"
        )
    return text + "."
