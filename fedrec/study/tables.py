"""A study's table: CSV for programs, Markdown for people."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from fedrec.evaluation.intervals import Interval
from fedrec.report.verdict import TITLES
from fedrec.study.cost import Cost, said
from fedrec.study.plan import METRICS
from fedrec.study.results import Line, Results

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
    header = ["method", "kind", results.study.vary, "seeds", *terms, *(m + end for m in METRICS for end in bounds)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for line in results.lines:
        kind = "reference" if line.reference else "without" if line.value is None else "trial"
        row: list[Any] = [line.method, kind, line.value, line.seeds, *(line.privacy.get(term) for term in terms)]
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
        f"| method | {study.vary} | HR@10 | NDCG@10 | over seeds | over users | HR@10, {results.negatives} sampled "
        "| NDCG@10, sampled | seeds |\n|---|---|---|---|---|---|---|---|---|\n"
        + "\n".join(_row(line) for line in ordered(results)),
        f"HR@10 and NDCG@10 by full ranking; 95 % intervals of NDCG@10, over seeds by Student's t, over users by "
        f"bootstrap. {EXCLUDES if costs else ''}".strip(),
        *(said(cost) for cost in costs),
        *(f"Failed: {name}: {why.strip().splitlines()[-1]}" for name, why in failed.items()),
    ]
    return "\n\n".join(head) + "\n"


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
        f"{hit.mean:.4f}",
        f"{full.mean:.4f}",
        _interval(full.seeds),
        _interval(full.users),
        f"{line.measured['sampled_hr@10'].mean:.4f}",
        f"{line.measured['sampled_ndcg@10'].mean:.4f}",
        str(line.seeds),
    ]
    return f"| {' | '.join(cells)} |"


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"
