"""What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere.

The sentence and the table that a simulation ends with. Both fit a terminal; elsewhere nothing is wrapped or left out.
"""

import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fedrec.data.dataset import Dataset
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.wording import format_epsilon, format_privacy
from fedrec.report.caveats import sampled_heading

if TYPE_CHECKING:
    from fedrec.federated.state import RoundReport, RunContext

PLAIN_SECONDS = 5.0  # between two plain lines of one run
LIVE_SECONDS = 0.5  # between two looks of a stage on a terminal
BAR = 14  # letters
FEW = 2  # rounds, as statistics have them, which can't be fewer
LONG = 60.0  # seconds of a run, which are told after its first round


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
    live: bool = False  # whether a line on the terminal waits to be overwritten

    def note(self, text: str) -> None:
        """Say something once."""
        self.close()
        print(f"{text}", file=self.stream, flush=True)

    def remark(self, text: str) -> None:
        """Say what the results lack: whoever shows nothing else shows this."""
        self.note(text)

    def close(self, wipe: bool = False) -> None:
        """End a line that waits to be overwritten, or take it away: what comes next begins on one of its own."""
        if self.live:
            self.live = False
            print("\r\x1b[K" if wipe else "", end="" if wipe else "\n", file=self.stream, flush=True)

    def dataset(self, dataset: Dataset) -> None:
        """Say what was loaded and what was repaired."""
        sizes = f"{dataset.interactions.users:,} users, {len(dataset.catalogue):,} items, {len(dataset.interactions):,}"
        self.note(f"{dataset.name}: {sizes} interactions; split: {dataset.split}")
        for what, count in dataset.repairs:
            self.note(f"  repaired: {count:,} {what}")

    def start(self, label: str, context: "RunContext") -> None:
        """Begin the lines of one run: how long it is, and what it is going to be charged."""
        self.label, self.rounds = label or "run", context.experiment.rounds
        if context.experiment.mechanism.private:
            self.note(f"{self.label}, {plural(self.rounds, 'round')}; {together(context)}")
        if context.experiment.algorithm.trains and context.sequential_reason:
            self.note(f"{self.label} trains one device at a time: {context.sequential_reason}")
        elif context.engine_note is not None:
            self.note(f"{self.label} {context.engine_note}")
        self.started, self.told, self.first, self.validation = time.monotonic(), 0.0, 0, None

    def round(self, report: "RoundReport") -> None:
        """Show a finished round."""
        now, self.first = time.monotonic(), self.first or report.round
        self.validation = report.validation if report.validation is not None else self.validation
        last = report.round == self.rounds
        whole = (now - self.started) * self.rounds
        if report.round == self.first < self.rounds and whole > LONG:
            fewer = "; rounds=N plays fewer" if self.rounds > FEW else ""
            self.note(f"{self.label}: about {duration(whole)} for {plural(self.rounds, 'round')}{fewer}")
        if self.stream.isatty():
            name, epsilon, left, *others = self._parts(report, now)
            bar = progress_bar(report.round, self.rounds, self.stream)
            line = fitted([name, epsilon, left, bar, *others], terminal_width(self.stream) - 1)
            print(f"\r\x1b[K{line}", end="", file=self.stream, flush=True)
            self.live = True
        elif last or now - self.told >= PLAIN_SECONDS:
            self.told = now
            self.note("  ".join(text for _, text in sorted(self._parts(report, now), key=lambda part: part[0]) if text))
        if last or report.rejected:
            self.close()
        for node, reason in report.rejected.items():
            self.note(f"  round {report.round}: node {node} does not count: {reason}")

    def _parts(self, report: "RoundReport", now: float) -> list["Part"]:
        """Return what is said of a round: where it stands in the line, and the text, the most needed first."""
        done = report.round - self.first + 1
        left = (now - self.started) / done * (self.rounds - report.round)
        return [
            (1, f"{self.label} round {report.round}/{self.rounds}"),
            (5, format_epsilon(report.epsilon)),
            (6, f"{duration(left)} left" if report.round < self.rounds else f"{now - self.started:,.1f} s"),
            (4, "" if self.validation is None else f"validation NDCG@10 {self.validation:.4f}"),
            (3, "" if report.loss is None else f"loss {report.loss:.4f}"),
            (2, f"{report.answered / max(report.seconds, 1e-9):,.0f} devices/s"),
        ]

    def share(self, label: str, done: int, total: int) -> None:
        """Show how far the evaluation of a baseline is: a line every few seconds while it is going on."""
        now = time.monotonic()
        if label != self.label or done < self.first:
            self.label, self.started, self.told = label, now, now
        self.first = done
        if now - self.told >= PLAIN_SECONDS and done < total:
            self.told = now
            left = (now - self.started) / done * (total - done)
            self.note(f"{label}: {done:,} of {plural(total, 'user')}  {duration(left)} left")

    def stage(self, label: str, done: int, total: int) -> None:
        """Show how far the reading of a data set is; what is over within seconds is not shown."""
        now, known = time.monotonic(), f"{100 * done / total:.0f} %" if done and total else ""
        self.started = self.started or now
        if now - max(self.told, self.started) < (LIVE_SECONDS if self.stream.isatty() else PLAIN_SECONDS):
            return
        self.told = now
        if self.stream.isatty():
            bar = progress_bar(done, total, self.stream) if known else (0, "")
            line = fitted([(1, label), (2, known), bar], terminal_width(self.stream) - 1)
            print(f"\r\x1b[K{line}", end="", file=self.stream, flush=True)
            self.live = True
        else:
            self.note(f"{label}  {known}".rstrip())

    def end(self, context: "RunContext", played: int) -> None:
        """Say so where a run ended before its last round; `played` is the last one that is durable."""
        if played < context.experiment.rounds:
            self.note(
                f"{self.label} ends after round {played} of {context.experiment.rounds}: another round would "
                "pass the budget (rounds lost in a crash stay charged)"
            )


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s"


Part = tuple[int, str]


def fitted(parts: Sequence[Part], width: int) -> str:
    """Return one line of at most `width` letters: those parts that fit, the most needed first, in their order."""
    kept = [parts[0]]
    for part in parts[1:]:
        if part[1] and len("  ".join(text for _, text in [*kept, part])) <= width:
            kept.append(part)
    return "  ".join(text for _, text in sorted(kept, key=lambda part: part[0]))[:width]


def progress_bar(done: int, total: int, stream: TextIO) -> Part:
    """Return a bar of so many letters, in ASCII where the stream has no others."""
    full = BAR * done // max(total, 1)
    try:
        "\u2501\u2500".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return 0, "#" * full + "-" * (BAR - full)
    return 0, "\u2501" * full + "\u2500" * (BAR - full)


def terminal_width(stream: TextIO) -> int:
    """Return how many letters a line of the terminal holds."""
    from rich.console import Console

    return Console(file=stream).width


def plural(count: int, noun: str) -> str:
    """Return a number of things."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def together(context: "RunContext") -> str:
    """Return what all runs on these users will have spent at the end of a run, of which unit, and what they may."""
    before, after = context.ledger.population_projection()
    limit = context.experiment.node()["privacy"].get("population_epsilon")
    may = "no limit" if limit is None else f"limit {limit:g}"
    if after.unprotected:
        return f"all runs on these users: {after.sentence()} ({may})"
    spent = f"{format_epsilon(before.epsilon)} so far, {format_epsilon(after.epsilon)} with this one"
    terms = f"unit: {after.terms.unit}; {after.terms.relation}; delta {after.delta:.2g}"
    return f"all runs on these users: {spent} ({may}; {terms})"


TITLES = {
    "no_privacy": "the same model, no privacy",
    "popularity": "popularity, pooled data",
    "private_popularity": "popularity, same mechanism and budget",
    "local": "a device alone, no federation",
    "item_knn": "item-kNN, pooled data",
    "ease": "EASE, pooled data",
    "ials": "iALS, pooled data",
}


def verdict(values: Mapping[str, Any]) -> str:
    """Return the sentence that says what the run shows; its guarantee stands beside it, by `format_privacy`."""
    ours, popular = values["test"]["full"].get("ndcg@10"), values["baselines"]["popularity"]
    data = f"{values['dataset']['name']}{' (synthetic users)' if values['dataset'].get('synthetic') else ''}"
    unit, epsilon = values["privacy"]["unit"], values["privacy"]["epsilon"]
    level = "without privacy" if unit == Unit.NONE else f"at {unit} level ({format_epsilon(epsilon)})"
    if ours is None:
        return f"On {data}, {values['model']} {level} was trained; how well it ranks, its devices have not told."
    text = f"On {data}, {values['model']} {level} reaches NDCG@10 {ours:.4f} on full ranking"
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


def table(values: Mapping[str, Any], width: int | None = None) -> str:
    """Return one line a method, full ranking first; in at most `width` letters, without the columns that do not fit."""
    found = [(name, one) for name, one in methods(values) if one["full"].get("ndcg@10_ci")]
    if not found:
        return "No figures: no user had anything held out, or none told."
    sampled = sampled_heading(values)
    columns = [
        ["", "", *(name for name, _ in found)],
        ["", "HR@10", *(f"{one['full']['hr@10']:.4f}" for _, one in found)],
        ["full ranking", "NDCG@10 (95 % over users)", *(_interval(one["full"]) for _, one in found)],
        ["", "coverage", *(f"{one['full']['coverage@10']:.3f}" for _, one in found)],
    ]
    if sampled is not None:
        columns += [
            ["against", "HR@10", *(f"{one['sampled']['hr@10']:.4f}" for _, one in found)],
            [f"{sampled} sampled", "NDCG@10", *(f"{one['sampled']['ndcg@10']:.4f}" for _, one in found)],
        ]
    while width is not None and len(columns) > 3 and _wide(columns) > width:
        columns.pop()
    if width is not None and _wide(columns) > width:
        lines = [f"{name}\n  NDCG@10 {ndcg}  HR@10 {hits}" for name, hits, ndcg in zip(*columns, strict=True)][2:]
    else:
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(
                [f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))]
            )
            for row in zip(*columns, strict=True)
        ]
    if "rmse" in values["test"]:
        lines.append(f"RMSE on the held-out ratings: {values['test']['rmse']:.4f}")
    return "\n".join(line.rstrip() for line in lines)


def _wide(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns) - 2


def _interval(full: Mapping[str, Any]) -> str:
    low, high = full["ndcg@10_ci"]
    return f"{full['ndcg@10']:.4f} ({low:.4f} to {high:.4f})"


def result(values: Mapping[str, Any], place: Path, stream: TextIO, what: str = "Run folder") -> str:
    """Return what a run ends with, fit to a terminal: verdict, guarantee, caveats, table, where it lies."""
    width = terminal_width(stream) if stream.isatty() else None
    told = format_privacy(values["privacy"])
    unprotected = values["privacy"]["unit"] == Unit.NONE
    said = [verdict(values), f"{told[:1].upper()}{told[1:]}." if unprotected else f"Guarantee: {told}."]
    said += [f"Beware: {text}" for text in values.get("caveats", ())]
    sentences = "\n".join(
        said if width is None else (textwrap.fill(text, width, break_on_hyphens=False) for text in said)
    )
    return f"\n{sentences}\n\n{table(values, width)}\n\n{what}: {place.resolve()}"


def methods(values: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the run and its baselines, each with its name."""
    unit, model = values["privacy"]["unit"], values["model"]
    label = model if unit == Unit.NONE else f"{model}, {unit} level, {format_epsilon(values['privacy']['epsilon'])}"
    return [
        (label, values["test"]),
        *((str(TITLES.get(name, name)), found) for name, found in values["baselines"].items() if found),
    ]
