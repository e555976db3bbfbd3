"""A study's table: CSV for programs, Markdown for people."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from fedrec.evaluation.summary import Interval
from fedrec.report.console import TITLES
from fedrec.study.plan import METRICS
from fedrec.study.results import Cost, Line, Measured, Results, describe_cost

GAIN = "Attacker: the share that the best attacker finds at most at 1 % false alarms, from the accounted curve. "
EXCLUDES = (
    "Settings were chosen on exact validation figures of these users: every epsilon excludes selection. Test figures "
    "are exact, simulation only, and not covered by any epsilon."
)


def named(line: Line) -> str:
    """Return what a line is called."""
    return TITLES.get(line.method, line.method) if line.reference else line.method


def to_csv(results: Results) -> str:
    """Return one row a line: what it is, its guarantee, and for each metric mean and both 95 % intervals."""
    text = io.StringIO()
    bounds = ("", "_seeds_low", "_seeds_high", "_users_low", "_users_high")
    terms = ("unit", "neighbouring", "trust", "epsilon", "delta")
    header = ["method", "kind", results.study.vary, "seeds", *terms, "attacker_finds_at_most"]
    header += [metric + end for metric in METRICS for end in bounds]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for line in results.lines:
        kind = "reference" if line.reference else "without" if line.value is None else "trial"
        row: list[Any] = [line.method, kind, line.value, line.seeds, *(line.privacy.get(term) for term in terms)]
        row.append(line.privacy.get("attacker", {}).get("finds_at_most"))
        for metric in METRICS:
            one = line.measured[metric]
            row += [one.mean, *_ends(one.seeds), *_ends(one.users)]
        writer.writerow(row)
    return text.getvalue()


def to_markdown(results: Results, costs: Sequence[Cost], failed: dict[str, str], command: str) -> str:
    """Return the table with everything that it needs to be read alone."""
    study, data = results.study, results.dataset
    head = [
        f"# {study.title}",
        f"{data['name']}{' (synthetic users)' if data['synthetic'] else ''}: {data['users']:,} users, "
        f"{data['items']:,} items, {data['interactions']:,} interactions; split: {data['split']}. "
        f"Catalogue: {data['catalogue']}. Made by `{command}`."
        if data
        else "No trial has ended.",
        *(pivot(results, metric) for metric in ("full_ndcg@10", "sampled_hr@10")),
        against_best(results),
        f"| method | {study.vary} | attacker | HR@10 | NDCG@10 | over seeds | over users | HR@10, {results.negatives} "
        "sampled | NDCG@10, sampled | seeds |\n|---|---|---|---|---|---|---|---|---|---|\n"
        + "\n".join(_row(line) for line in ordered(results)),
        f"HR@10 and NDCG@10 by full ranking; 95 % intervals of NDCG@10, over seeds by Student's t, over users by "
        f"bootstrap. {GAIN + EXCLUDES if costs else ''}".strip(),
        *(describe_cost(cost) for cost in costs),
        *(f"Failed: {name}: {why.strip().splitlines()[-1]}" for name, why in failed.items()),
    ]
    return "\n\n".join(part for part in head if part) + "\n"


def pivot(results: Results, metric: str) -> str:
    """Return a metric with a column for each value; behind +-, half the 95 % interval over seeds."""
    study = results.study
    values: list[float | None] = [*([None] if study.without else []), *sorted(study.values)]
    kind = f"{results.negatives} sampled" if metric.startswith("sampled") else "full ranking"
    head = [study.without_label if value is None else f"{study.vary}={value:g}" for value in values]
    lines = [f"| {metric.partition('_')[2].upper()}, {kind} | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for method in study.methods:
        found = {line.value: line.measured[metric] for line in results.of(method)}
        lines.append(f"| {method} | {' | '.join(_cell(found.get(value)) for value in values)} |")
    for line in results.lines:
        if line.reference:
            empty = " |" * (len(head) - 1)
            lines.append(f"| {named(line)} | {_cell(line.measured[metric])} |{empty}")
    return "\n".join(lines)


def _cell(one: Measured | None) -> str:
    if one is None:
        return ""
    return f"{one.mean:.4f}" + (f" +- {one.seeds.high - one.seeds.mean:.4f}" if one.seeds else "")


def against_best(results: Results) -> str:
    """Return how the best method without the varied setting compares with the best reference."""
    methods = [line for line in results.lines if line.value is None and not line.reference]
    references = [line for line in results.lines if line.reference]
    if not methods or not references:
        return ""
    ours, theirs = (max(some, key=lambda line: line.measured["full_ndcg@10"].mean) for some in (methods, references))
    a, b = ours.measured["full_ndcg@10"].mean, theirs.measured["full_ndcg@10"].mean
    reached = f"With {results.study.without_label}, {ours.method} reaches NDCG@10 {a:.4f} by full ranking"
    return f"{reached}, {a / b:.3f} of the best reference ({named(theirs)}, {b:.4f})."


def ordered(results: Results) -> list[Line]:
    """Return the lines as they are read: each method from without to the smallest guarantee, then references."""
    methods = [line for method in results.study.methods for line in results.of(method)]
    return methods + [line for line in results.lines if line.reference]


def _row(line: Line) -> str:
    full, hit = line.measured["full_ndcg@10"], line.measured["full_hr@10"]
    value = "" if line.reference else "none" if line.value is None else f"{line.value:g}"
    cells = [
        named(line),
        value,
        _gain(line),
        f"{hit.mean:.4f}",
        f"{full.mean:.4f}",
        _interval(full.seeds),
        _interval(full.users),
        f"{line.measured['sampled_hr@10'].mean:.4f}",
        f"{line.measured['sampled_ndcg@10'].mean:.4f}",
        str(line.seeds),
    ]
    return f"| {' | '.join(cells)} |"


def _gain(line: Line) -> str:
    attacker = line.privacy.get("attacker")
    return "" if line.reference or attacker is None else f"{100 * attacker['finds_at_most']:.0f} %"


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"
