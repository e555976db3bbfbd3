"""report.html: one page of a finished run, complete in itself, which asks for nothing from outside."""

import json
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fedrec.experiment.settings import find_overrides
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.wording import UNIT, format_epsilon, format_privacy
from fedrec.report import plot
from fedrec.report.caveats import sampled_heading
from fedrec.report.console import methods, verdict
from fedrec.report.privacy_card import sections, templates
from fedrec.storage.run_folder import EXACT_LABEL, RunFolder, atomic_write

ROWS = 12  # rounds of the table that stands for a picture


@dataclass(frozen=True, slots=True)
class Report:
    """What a page shows: the content of a run's public files, and the day it ended."""

    name: str
    values: Mapping[str, Any]
    card: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    day: str

    @classmethod
    def of(cls, folder: RunFolder) -> "Report":
        """Read the public files of a run."""
        ended = time.localtime((folder.path / "metrics.json").stat().st_mtime)
        config = folder.path / "config.yaml"
        return cls(
            name=folder.path.resolve().name,
            values=json.loads((folder.path / "metrics.json").read_text()),
            card=json.loads((folder.path / "privacy_card.json").read_text()),
            rounds=[json.loads(line) for line in (folder.path / "rounds.jsonl").read_text().splitlines()],
            settings=yaml.safe_load(config.read_text()) if config.exists() else {},
            day=f"{ended.tm_mday} {time.strftime('%b %Y', ended)}",
        )

    @property
    def private(self) -> bool:
        """Whether the run has a guarantee."""
        return self.values["privacy"]["unit"] != Unit.NONE


def write_page(folder: RunFolder) -> None:
    """Write report.html, and for a private run exact/report.html, which only its owner may read.

    The second shows loss and accuracy by round: they are exact, and no epsilon covers them.
    """
    report = Report.of(folder)
    parts = context(report)
    (folder.path / "report.html").write_text(render_page(parts, report.rounds), encoding="utf-8")
    if report.private and (exact := folder.exact_rounds()):
        page = render_page({**parts, "exact": EXACT_LABEL}, exact)
        atomic_write(folder.exact / "report.html", page.encode(), 0o600)


def context(report: Report) -> dict[str, Any]:
    """Return what a page shows beside its rounds."""
    values = report.values
    return {
        "report": report,
        "values": values,
        "headline": headline(values),
        "verdict": verdict(values),
        "caveats": values.get("caveats", ()),
        "sampled": sampled_heading(values),
        "tiles": list(tiles(values)),
        "guarantee": format_privacy(values["privacy"]),
        "methods": compare(values),
        "notes": notes(values),
        "card": sections(report.card),
        "made": made(values),
        "command": command(report.settings),
        "settings": yaml.safe_dump(dict(report.settings), sort_keys=False, allow_unicode=True),
        "exact": "",
    }


def render_page(parts: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> str:
    """Return the page: verdict, guarantee, accuracy, what each round did, the privacy card, and how to make it."""
    found = plot.panels({name: [line.get(name) for line in rounds] for name in ("round", *plot.PANELS)})
    pictures = [draw(name, points) for name, points in found.items()] if plot.installed() else []
    return templates().get_template("report.html").render(parts, pictures=pictures, rounds=rounds_table(found))


def headline(values: Mapping[str, Any]) -> str:
    """Return the verdict in one short sentence."""
    ours, found = values["test"]["full"].get("ndcg@10"), values["baselines"]
    parts = list[str]()
    if ours is None:
        return "How well it ranks, nobody has told."
    if popular := found.get("popularity"):
        gap, theirs = popular["paired_ndcg@10"], popular["full"]["ndcg@10"]
        apart = gap["low"] > 0 or gap["high"] < 0
        word = "above" if gap["low"] > 0 else "below"
        share = f"{100 * abs(ours / theirs - 1):.0f} % " if theirs else ""
        parts.append(f"{share}{word} popularity" if apart else "Not to be told from popularity")
    if twin := found.get("no_privacy"):
        free, gap = twin["full"]["ndcg@10"], twin["paired_ndcg@10"]
        lost = 100 * (1 - ours / free) if free else 0.0
        certain = gap["high"] < 0 < lost
        parts.append(f"at a cost of {lost:.0f} % against no privacy" if certain else "no certain cost of privacy")
    parts = parts or [values["model"]]
    return f"{parts[0][0].upper()}{', '.join(parts)[1:]}."


def tiles(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the figures that come first, each with what it is."""
    full, privacy = values["test"]["full"], values["privacy"]
    if full.get("ndcg@10_ci"):
        digits = decimals(*full["ndcg@10_ci"])
        low, high = full["ndcg@10_ci"]
        yield f"{full['ndcg@10']:.{digits}f}", f"NDCG@10 on full ranking; 95 %: {low:.{digits}f} to {high:.{digits}f}"
    yield format_epsilon(privacy["epsilon"]), f"for {UNIT[privacy['unit']]}" if privacy["epsilon"] else "no guarantee"
    if "attacker" in privacy:
        told = privacy["attacker"]
        yield (
            f"{100 * told['finds_at_most']:.0f} %",
            f"right guesses of an attacker at most, at {100 * told['false_alarms']:.0f} % false alarms",
        )


def decimals(low: float, high: float) -> int:
    """Return how many decimals mean something in a figure with this interval: two digits of its half-width."""
    half = (high - low) / 2
    return min(max(1 - math.floor(math.log10(half)), 2), 5) if half > 0 else 4


def compare(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each method: its figures in text, and in % of the largest where its bar begins and ends."""
    found = [(name, one) for name, one in methods(values) if one["full"].get("ndcg@10_ci")]
    if not found:
        return []
    digits = decimals(*values["test"]["full"]["ndcg@10_ci"])
    largest = max(one["full"]["ndcg@10_ci"][1] for _, one in found) or 1.0
    rows = list[dict[str, Any]]()
    for name, one in found:
        full, sampled, (low, high) = one["full"], one["sampled"], one["full"]["ndcg@10_ci"]
        rows.append(
            {
                "name": name,
                "ndcg": f"{full['ndcg@10']:.{digits}f}",
                "interval": f"{low:.{digits}f} to {high:.{digits}f}",
                "hits": f"{full['hr@10']:.{digits}f}",
                "coverage": f"{100 * full['coverage@10']:.0f} %",
                "sampled": [f"{sampled[metric]:.{digits}f}" for metric in ("hr@10", "ndcg@10")],
                "bar": [round(100 * value / largest, 1) for value in (full["ndcg@10"], low, high)],
            }
        )
    return rows


def notes(values: Mapping[str, Any]) -> list[str]:
    """Return what must stand beside the figures."""
    said = [f"Figures: {values['release']}."]
    if (excluded := values["test"].get("excluded", 0)) > 0:
        said.append(f"{excluded:,} users had nothing held out and are left out.")
    if "rmse" in values["test"]:
        said.append(f"RMSE on the held-out ratings: {values['test']['rmse']:.3f}.")
    if "selection" in values["privacy"]:
        said.append(f"Epsilon {values['privacy']['selection']}.")
    return said


def draw(name: str, points: plot.Points) -> str:
    """Return the picture of one figure by round."""
    return plot.inline(plot.draw_rounds({name: points}), describe(name, points))


def describe(name: str, points: plot.Points) -> str:
    """Return what a picture shows, in figures."""
    (first, begin), (last, end) = points[0], points[-1]
    best, most = max(points, key=lambda point: point[1])
    return (
        f"{plot.PANELS[name]} by round: {begin:.3g} after round {first}, {end:.3g} after round {last}, largest "
        f"{most:.3g} after round {best}"
    )


def rounds_table(found: Mapping[str, plot.Points]) -> dict[str, Any]:
    """Return some of the rounds as a table, the first and the last among them: its head, and a row for each."""
    numbers = sorted({n for points in found.values() for n, _ in points})
    step = max(1, math.ceil(len(numbers) / ROWS))
    chosen = [*numbers[:-1:step], *numbers[-1:]]
    lines = {name: dict(points) for name, points in found.items()}
    cells = [[f"{line[n]:.3g}" if n in line else "" for line in lines.values()] for n in chosen]
    rows = [[str(n), *row] for n, row in zip(chosen, cells, strict=True)]
    return {"head": ["round", *(plot.PANELS[name] for name in found)], "rows": rows}


def made(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what the run was made of, each with its name."""
    data, seconds = values["dataset"], values["seconds"]
    counts = {what: data.get(what) for what in ("users", "items", "interactions")}
    sizes = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count is not None)
    found = {
        "data set": f"{data['name']}{' (synthetic users)' if data.get('synthetic') else ''}: {sizes}",
        "split": data.get("split"),
        "repairs": ", ".join(f"{count:,} {what}" for what, count in data.get("repairs", {}).items()) or "none",
        "model": f"{values['model']}, trained by {values['algorithm']}",
        "privacy": values["mechanism"],
        "rounds": f"{values['rounds']:,}, seed {values['seed']}",
        "refit": "on train and validation" if values.get("refit") else "no: the model learned from train alone",
        "time": f"{seconds['train']:.0f} s to train, {seconds['total']:.0f} s in all" if seconds else None,
        "sampled candidates": f"hash {values['candidates'][:16]}" if values.get("candidates") else None,
    }
    return {name: str(said) for name, said in found.items() if said is not None}


def command(settings: Mapping[str, Any]) -> str:
    """Return the command that makes such a run again; "" where its parts are not all fedrec's own."""
    found = find_overrides(settings) if settings else None
    return "" if found is None else shlex.join(["fedrec", "simulate", *found])
