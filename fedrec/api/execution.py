"""Runs in this process, and their progress: as in the shell, as one bar in a notebook, or not at all."""

import os
import sys
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedrec.data.dataset import Dataset
from fedrec.data.datasets.frame import HeldRows, hold
from fedrec.federated.exchange import Transport
from fedrec.privacy.wording import format_epsilon
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, resumed_run

if TYPE_CHECKING:
    from fedrec.federated.state import RoundReport, RunContext

QUIET = {  # nothing calls home
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
REDRAWN = 0.2  # seconds between two drawings of the bar


@dataclass(slots=True)
class SilentProgress(Progress):
    """Shows nothing, and remembers the last round."""

    last: int = 0

    def note(self, text: str) -> None:
        """Leave words out."""

    def remark(self, text: str) -> None:
        """Warn, as programs do."""
        warnings.warn(text, stacklevel=2)

    def dataset(self, dataset: Dataset) -> None:
        """Leave the data set out."""

    def start(self, label: str, context: "RunContext") -> None:
        """Remember what is run and how many rounds there will be."""
        self.label, self.rounds, self.last = label, context.experiment.rounds, 0

    def round(self, report: "RoundReport") -> None:
        """Remember the round."""
        self.last = report.round

    def share(self, label: str, done: int, total: int) -> None:
        """Leave out how far a baseline is."""

    def end(self, context: "RunContext", played: int) -> None:
        """Leave an early end to the run's metrics."""


@dataclass(slots=True)
class NotebookProgress(SilentProgress):
    """Shows one bar under the cell, which moves on from the run to its baselines and ends as a line."""

    handle: Any = None
    first_begun: float = field(default_factory=time.monotonic)
    begun: float = field(default_factory=time.monotonic)
    drawn: float = 0.0
    validation: float | None = None

    def start(self, label: str, context: "RunContext") -> None:
        """Begin a bar for the run, or for a baseline beside it."""
        SilentProgress.start(self, label, context)
        self.begun, self.validation = time.monotonic(), None
        self.show(f"{self._name()}: starting", 0.0)

    def round(self, report: "RoundReport") -> None:
        """Move the bar on, a few times a second."""
        SilentProgress.round(self, report)
        self.validation = self.validation if report.validation is None else report.validation
        now = time.monotonic()
        if now - self.drawn >= REDRAWN or report.round == self.rounds:
            self.drawn = now
            self.show(self._line(report, now), report.round / max(self.rounds, 1))

    def close(self, wipe: bool = False) -> None:
        """Fill the bar and say how long all of it took."""
        if self.last == self.rounds:
            self.show(f"done in {time.monotonic() - self.first_begun:.0f} s", 1.0)

    def _line(self, report: "RoundReport", now: float) -> str:
        parts = [
            f"{self._name()}: round {report.round} of {self.rounds}",
            "" if self.validation is None else f"validation NDCG@10 {self.validation:.3f}",
            format_epsilon(report.epsilon),
            f"{now - self.begun:.0f} s",
        ]
        return ", ".join(part for part in parts if part)

    def _name(self) -> str:
        return self.label.replace("_", " ") or "run"

    def show(self, text: str, share: float) -> None:
        """Draw the bar with a text beside it, in the place where it was."""
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        drawn = HTML(f'<progress value="{share:.3f}" style="width:16em"></progress> {escape(text)}')
        if self.handle is None:
            self.handle = display(drawn, display_id=True)
        else:
            self.handle.update(drawn)


def in_notebook() -> bool:
    """Say whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return found is not None and hasattr(found, "kernel")


def make_progress(wanted: bool) -> Progress:
    """Return what shows the progress of a run here."""
    if not wanted:
        return SilentProgress()
    return NotebookProgress() if in_notebook() else Progress()


@contextmanager
def on_this_machine() -> Generator[Callable[[int], Transport]]:
    """Prepare this process for runs, and give it back as it was; yields what makes a grid of so many nodes in it.

    What nodes keep between runs is forgotten first: a class of the user's own may have been defined anew.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from fedrec.device.client_app import make_client_app, simulated_node
    from fedrec.federated.node import forget
    from fedrec.flower.transport import FlowerTransport, InProcessGrid

    simulated_node.cache_clear()
    forget()
    threads, app = torch.get_num_threads(), make_client_app()
    try:
        yield lambda parts: FlowerTransport(InProcessGrid(app, parts))
    finally:
        torch.set_num_threads(threads)


def finish(path: Path, held: HeldRows | None, progress: bool) -> None:
    """Run what is still to do of a run; an interruption says the call that goes on."""
    if held is not None:
        hold(held)
    (settings, folder), shown = resumed_run(str(path)), make_progress(progress)
    parts = int(settings.document["nodes"])
    call = f"fedrec.load_run({str(path)!r}).resume({'frame' if held is not None else ''})"
    shown.note(f"Run folder: {path}  (interrupted, {call} goes on)")
    try:
        with on_this_machine() as nodes:
            Simulation(settings, folder, lambda: nodes(parts), shown).simulate()
        shown.close()
    except KeyboardInterrupt:
        shown.close()
        raise KeyboardInterrupt(f"interrupted; {call} goes on after the last finished round") from None
