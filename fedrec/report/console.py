"""What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere.

The sentence and the table that a simulation ends with.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from fedrec.data.dataset import Dataset
from fedrec.privacy.accounting.interpretation import format_interpretation
from fedrec.privacy.card import promised

if TYPE_CHECKING:
    from fedrec.federated.history import RoundReport
    from fedrec.federated.state import RunContext

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

    def start(self, label: str, context: "RunContext") -> None:
        """Begin the lines of one run."""
        self.label, self.rounds = label or "run", context.experiment.rounds
        if context.experiment.mechanism.private:
            self.note(f"{self.label}, after {self.rounds} rounds: {promise(context)}")
            self.note(f"  {together(context)}")
        if context.experiment.algorithm.trains and context.sequential_reason:
            self.note(f"{self.label} trains one device at a time: {context.sequential_reason}")
        self.started, self.told, self.first, self.validation = time.monotonic(), 0.0, 0, None

    def round(self, report: "RoundReport") -> None:
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

    def _line(self, report: "RoundReport", now: float) -> str:
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

    def end(self, context: "RunContext", played: int) -> None:
        """Say so where a run ended before its last round; `played` is the last one that is durable."""
        if played < context.experiment.rounds:
            self.note(
                f"{self.label} ends after round {played} of {context.experiment.rounds}: another round would "
                "pass the budget (rounds lost in a crash stay charged)"
            )


def promise(context: "RunContext") -> str:
    """Return what a run will have spent at its end, in the words that go with every epsilon."""
    plan = context.plan
    return promised(context.experiment.mechanism, plan, context.ledger.projection(plan.rounds))


def together(context: "RunContext") -> str:
    """Return what all runs on these users will have spent at its end, and what they may."""
    before, after = context.ledger.population_projection()
    limit = context.experiment.node()["privacy"].get("population_epsilon")
    may = "no limit" if limit is None else f"limit {limit:g}"
    return f"all runs on these users: epsilon {before:.2f} so far, {after:.2f} with this one ({may})"


TITLES = {
    "no_privacy": "the same model, no privacy",
    "popularity": "popularity, pooled data",
    "private_popularity": "popularity, same mechanism and budget",
    "local": "a device alone, no federation",
    "item_knn": "item-kNN, pooled data",
    "ease": "EASE, pooled data",
    "ials": "iALS, pooled data",
}


def guarantee(privacy: Mapping[str, Any]) -> str:
    """Return a guarantee in one clause, never as one bare number."""
    if privacy["unit"] == "none":
        return "no privacy guarantee"
    gain = f"; {format_interpretation(privacy, privacy['neighbouring'])}" if "attacker" in privacy else ""
    return (
        f"epsilon {privacy['epsilon']:.2f} (unit: one {privacy['unit']}; {privacy['neighbouring']}; "
        f"delta {privacy['delta']:.1e}; trusted: the {privacy['trust']} only{gain})"
    )


def verdict(values: Mapping[str, Any]) -> str:
    """Return the sentence that says what the run shows."""
    ours, popular = values["test"]["full"]["ndcg@10"], values["baselines"]["popularity"]
    data = f"{values['dataset']['name']}{' (synthetic users)' if values['dataset']['synthetic'] else ''}"
    text = (
        f"On {data}, {values['model']} with {guarantee(values['privacy'])} reaches NDCG@10 {ours:.4f} on full ranking"
    )
    if popular:
        gap = popular["paired_ndcg@10"]
        word = "above" if gap["low"] > 0 else "below" if gap["high"] < 0 else "not to be told from"
        text += (
            f", {word} popularity's {popular['full']['ndcg@10']:.4f} "
            f"(difference {gap['difference']:+.4f}, 95 % over users {gap['low']:+.4f} to {gap['high']:+.4f})"
        )
    twin = values["baselines"]["no_privacy"]
    if twin:
        free, gap = twin["full"]["ndcg@10"], twin["paired_ndcg@10"]
        cost = f"so privacy costs {100 * (1 - ours / max(free, 1e-9)):.0f} %" if ours < free else "no less than that"
        sure = "" if gap["high"] < 0 else ", a difference within the noise of these users"
        text += f"; without privacy it reaches {free:.4f}, {cost}{sure}"
    early = values.get("ended_early")
    return f"{text}.{f' Not the whole run: it ended {early}.' if early else ''}"


def table(values: Mapping[str, Any]) -> str:
    """Return one line a method, full ranking first."""
    unit = values["privacy"]["unit"]
    label = (
        values["model"]
        if unit == "none"
        else f"{values['model']}, {unit} level, epsilon {values['privacy']['epsilon']:.2f}"
    )
    rows = [(label, values["test"])]
    rows += [(TITLES.get(name, name), found) for name, found in values["baselines"].items() if found]
    negatives = values["test"]["sampled"]["negatives"]
    lines = [f"{'':44}{'full ranking':^46}{f'against {negatives} sampled':^22}".rstrip()]
    lines.append(f"{'':44}{'HR@10':>8}  {'NDCG@10 (95 % over users)':>28}  {'coverage':>8}{'HR@10':>10}{'NDCG@10':>10}")
    for name, found in rows:
        full, sampled = found["full"], found["sampled"]
        low, high = full["ndcg@10_ci"]
        interval = f"{full['ndcg@10']:.4f} ({low:.4f} to {high:.4f})"
        lines.append(
            f"{name:44}{full['hr@10']:8.4f}  {interval:>28}  {full['coverage@10']:8.3f}"
            f"{sampled['hr@10']:10.4f}{sampled['ndcg@10']:10.4f}"
        )
    if "rmse" in values["test"]:
        lines.append(f"RMSE on the held-out ratings: {values['test']['rmse']:.4f}")
    return "\n".join(lines)
