"""What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere."""

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from fedrec.data.dataset import Dataset
from fedrec.privacy.ledger.promise import promised

if TYPE_CHECKING:
    from fedrec.federated.history import Round
    from fedrec.federated.state import Session

PLAIN_SECONDS = 5.0  # between two plain lines of one run


@dataclass(slots=True)
class Progress:
    """Writes to `stream`: a line that overwrites itself where that is a terminal, else a line every few seconds."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    label: str = ""
    rounds: int = 0
    started: float = 0.0
    told: float = 0.0
    first: int = 0
    validation: float | None = None

    def note(self, text: str) -> None:
        """Say something once."""
        print(f"{text}", file=self.stream, flush=True)

    def dataset(self, dataset: Dataset) -> None:
        """Say what was loaded and what was repaired."""
        sizes = f"{dataset.interactions.users:,} users, {len(dataset.catalogue):,} items, {len(dataset.interactions):,}"
        self.note(f"{dataset.name}: {sizes} interactions; split: {dataset.split}")
        for what, count in dataset.repairs:
            self.note(f"  repaired: {count:,} {what}")

    def start(self, label: str, session: "Session") -> None:
        """Begin the lines of one run."""
        self.label, self.rounds = label or "run", session.experiment.rounds
        if session.experiment.mechanism.private:
            self.note(f"{self.label}, after {self.rounds} rounds: {promise(session)}")
            self.note(f"  {together(session)}")
        if session.experiment.algorithm.trains and session.one_by_one:
            self.note(f"{self.label} trains one device at a time: {session.one_by_one}")
        self.started, self.told, self.first, self.validation = time.monotonic(), 0.0, 0, None

    def round(self, report: "Round") -> None:
        """Show a finished round."""
        now, self.first = time.monotonic(), self.first or report.round
        self.validation = report.validation if report.validation is not None else self.validation
        line, last = self._line(report, now), report.round == self.rounds
        if self.stream.isatty():
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=self.stream, flush=True)
        elif last or now - self.told >= PLAIN_SECONDS:
            self.told = now
            self.note(line)
        for node, reason in report.rejected.items():
            self.note(f"  round {report.round}: node {node} does not count: {reason}")

    def _line(self, report: "Round", now: float) -> str:
        done = report.round - self.first + 1
        left = (now - self.started) / done * (self.rounds - report.round)
        parts = [
            f"{self.label} round {report.round}/{self.rounds}",
            f"{report.answered / max(report.seconds, 1e-9):,.0f} devices/s",
            "" if report.loss is None else f"loss {report.loss:.4f}",
            "" if self.validation is None else f"validation NDCG@10 {self.validation:.4f}",
            "no privacy" if report.epsilon is None else f"epsilon {report.epsilon:.2f}",
            f"{left:,.0f} s left" if report.round < self.rounds else f"{now - self.started:,.1f} s",
        ]
        return "  ".join(part for part in parts if part)

    def end(self, session: "Session", played: int) -> None:
        """Say so where a run ended before its last round; `played` is the last one that is durable."""
        if played < session.experiment.rounds:
            self.note(
                f"{self.label} ends after round {played} of {session.experiment.rounds}: another round would "
                "pass the budget (rounds lost in a crash stay charged)"
            )


def promise(session: "Session") -> str:
    """Return what a run will have spent at its end, in the words that go with every epsilon."""
    plan = session.plan
    return promised(session.experiment.mechanism, plan, session.ledger.projection(plan.rounds))


def together(session: "Session") -> str:
    """Return what all runs on these users will have spent at its end, and what they may."""
    before, after = session.ledger.population_projection()
    limit = session.experiment.node()["privacy"].get("population_epsilon")
    may = "no limit" if limit is None else f"limit {limit:g}"
    return f"all runs on these users: epsilon {before:.2f} so far, {after:.2f} with this one ({may})"
