"""A study's picture: the metric against the varied setting, to be read without anything beside it."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrec.errors import FedrecError
from fedrec.study.plan import Study
from fedrec.study.results import Cost, Line, Results
from fedrec.study.tables import EXCLUDES, named

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's
DASHES = ((0, (1, 1)), (0, (5, 2)), (0, (3, 1, 1, 1)), (0, (7, 3, 1, 3)), (0, (2, 4)), (0, (9, 2)), (0, (1, 3)))
LABELS = {"full_ndcg@10": "NDCG@10", "full_hr@10": "HR@10", "sampled_ndcg@10": "NDCG@10", "sampled_hr@10": "HR@10"}
WIDTH_LETTERS = 150
Name = tuple[float, str, str]  # where on the axis, what is written, its colour


def check_installed() -> None:
    """Refuse, naming the extra, where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise FedrecError(
            "the picture needs matplotlib, which is not installed: pip install 'fedrec[report]', or --no-picture for "
            "the table alone"
        ) from error


def draw(results: Results, costs: Sequence[Cost], paths: Sequence[Path]) -> None:
    """Draw the picture into every path; its ending decides the format."""
    figure = make_figure(results, costs)
    for path in paths:
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def make_figure(results: Results, costs: Sequence[Cost]) -> Any:
    """Return the picture as a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.add_subplot()
    names = list[Name]()
    methods = list(results.study.methods)
    for number, (method, colour) in enumerate(zip(methods, COLOURS * len(methods), strict=False)):
        aside = number - (len(methods) - 1) / 2
        names += _method(axes, results.of(method), results.study, colour, aside)
    references = [line for line in results.lines if line.reference]
    for line, dash in zip(references, DASHES * len(references), strict=False):
        names += _reference(axes, line, results.study.metric, dash)
    _axes(axes, results)
    _label(axes, names)
    figure.supxlabel(caption(results, costs), fontsize=8, ha="left", x=0.01, color="#333333")
    return figure


def caption(results: Results, costs: Sequence[Cost]) -> str:
    """Return what a reader needs to know of the data, the split, the ranking, the intervals and the guarantee."""
    data, study = results.dataset, results.study
    made_up = " (synthetic users)" if data["synthetic"] else ""
    ranking = f"{results.negatives} sampled items" if study.metric.startswith("sampled") else "all items not yet used"
    deltas = sorted({line.privacy["delta"] for line in results.lines if line.privacy.get("delta") is not None})
    parts = [
        f"{data['name']}{made_up}: {data['users']:,} users, {data['items']:,} items. Split: {data['split']}.",
        f"Test, ranked among {ranking}; {bars(len(study.seeds))}.",
        f"Dashed lines in a method's colour: the same with {study.without_label}." if study.without else "",
        f"delta {', '.join(f'{delta:.0e}' for delta in deltas)}. {EXCLUDES}" if deltas else "",
        *(f"All {cost.trials} private trials together: epsilon {cost.epsilon:.1f}." for cost in costs),
    ]
    return "\n".join(textwrap.wrap(" ".join(part for part in parts if part), WIDTH_LETTERS))


def bars(seeds: int) -> str:
    """Return what the bars are."""
    return "one seed, so no intervals over seeds" if seeds == 1 else f"bars: 95 % over {seeds} seeds (Student's t)"


def _method(axes: Any, lines: list[Line], study: Study, colour: str, aside: float) -> list[Name]:
    """Draw one method's curve and its line without; `aside` keeps the bars of methods from covering each other."""
    metric, names = study.metric, list[Name]()
    points = [line for line in lines if line.value is not None]
    if points:
        means = [line.measured[metric].mean for line in points]
        halves = [(i.high - i.mean) if (i := line.measured[metric].seeds) else 0.0 for line in points]
        values = [_moved(line.value or 0.0, aside, study) for line in points]
        axes.errorbar(values, means, halves, color=colour, marker="o", markersize=4, capsize=3, linewidth=1.8)
        names.append((means[-1], points[-1].method, colour))
    for line in lines:
        if line.value is None:
            axes.axhline(line.measured[metric].mean, color=colour, linestyle=(0, (5, 3)), linewidth=1.1)
            names.append((line.measured[metric].mean, f"{line.method}, {study.without_label}", colour))
    return names


def _moved(value: float, aside: float, study: Study) -> float:
    if study.scale == "log":
        return value * 1.02**aside
    return value + 0.008 * aside * (max(study.values) - min(study.values))


def _reference(axes: Any, line: Line, metric: str, dash: Any) -> list[Name]:
    axes.axhline(line.measured[metric].mean, color="#777777", linestyle=dash, linewidth=1.1)
    return [(line.measured[metric].mean, named(line), "#555555")]


def _axes(axes: Any, results: Results) -> None:
    study = results.study
    axes.set_xscale(study.scale)
    axes.set_xticks(study.values, [f"{value:g}" for value in study.values])
    axes.minorticks_off()
    axes.set_xlabel(study.label)
    kind = "99 sampled" if study.metric.startswith("sampled") else "full ranking"
    axes.set_ylabel(f"{LABELS[study.metric]} ({kind.replace('99', str(results.negatives))})")
    axes.set_title(study.title, loc="left", fontweight="bold")
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(bottom=0)


def _label(axes: Any, names: list[Name]) -> None:
    """Write each line's name at its right end, joined to it where the names had to move apart."""
    low, high = axes.get_ylim()
    ranked = sorted(names)
    places = spread([value for value, _, _ in ranked], 0.04 * (high - low))
    right = axes.get_yaxis_transform()
    for (value, name, colour), place in zip(ranked, places, strict=True):
        axes.plot([1.0, 1.02], [value, place], transform=right, color=colour, linewidth=0.6, clip_on=False)
        axes.text(1.025, place, name, transform=right, fontsize=8, color=colour, va="center")
    axes.set_ylim(low, high)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Return ascending places near ascending values, neighbours at least `gap` apart (but for a hundredth of it)."""
    places = list(values)
    for _ in range(10_000):
        close = [n for n in range(len(places) - 1) if places[n + 1] - places[n] < 0.99 * gap]
        if not close:
            break
        for n in close:
            middle = (places[n] + places[n + 1]) / 2
            places[n], places[n + 1] = min(places[n], middle - gap / 2), max(places[n + 1], middle + gap / 2)
    return places
