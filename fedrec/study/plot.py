"""A study's picture: the metric against the varied setting, to be read without anything beside it."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrec.privacy.wording import format_epsilon
from fedrec.report.plot import COLOURS, GREY, save
from fedrec.study.plan import Study
from fedrec.study.results import Cost, Line, Results
from fedrec.study.tables import EXCLUDES, named

LABELS = {"full_ndcg@10": "NDCG@10", "full_hr@10": "HR@10", "sampled_ndcg@10": "NDCG@10", "sampled_hr@10": "HR@10"}
WIDTH_LETTERS = 150
DARK = """<style>
  @media (prefers-color-scheme: dark) {
    text:not([style*="fill:"]) { fill: #d0d7de }
    [style*="stroke: #000000"] { stroke: #d0d7de !important }
  }
</style>
<defs>"""
Name = tuple[float, float, str, str]  # where its line ends, what is written, its colour


def draw(results: Results, costs: Sequence[Cost], paths: Sequence[Path]) -> None:
    """Draw the picture, with title and caption, into every path; its ending decides the format."""
    figure = make_figure(results, costs)
    for path in paths:
        save(figure, path)


def make_figure(results: Results, costs: Sequence[Cost]) -> Any:
    """Return the picture, with title and caption, as a matplotlib figure."""
    figure, axes = _figure(results, (9, 6.4))
    axes.set_title(results.study.title, loc="left", fontweight="bold")
    figure.supxlabel(caption(results, costs), fontsize=8, ha="left", x=0.01, color="#333333")
    return figure


def draw_bare(results: Results, path: Path) -> None:
    """Draw the same without title and caption, to stand in a text that has them; as SVG, for light and dark pages."""
    figure, _ = _figure(results, (7.5, 4.2))
    figure.patch.set_alpha(0)
    figure.axes[0].patch.set_alpha(0)
    save(figure, path)
    if path.suffix == ".svg":
        path.write_text(path.read_text().replace("<defs>", DARK, 1))


def _figure(results: Results, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    names = list[Name]()
    methods = list(results.study.methods)
    for number, (method, colour) in enumerate(zip(methods, COLOURS * len(methods), strict=False)):
        aside = number - (len(methods) - 1) / 2
        names += _method(axes, results.of(method), results.study, colour, aside)
    for line in _references(results):
        names += _reference(axes, line, results.study.metric)
    _axes(axes, results)
    _label(axes, names)
    return figure, axes


def caption(results: Results, costs: Sequence[Cost]) -> str:
    """Return what a reader needs to know of the data, the split, the ranking, the intervals and the guarantee."""
    data, study = results.dataset, results.study
    made_up = " (synthetic users)" if data["synthetic"] else ""
    ranking = f"{results.negatives} sampled items" if study.metric.startswith("sampled") else "all items not yet used"
    deltas = sorted({line.privacy["delta"] for line in results.lines if line.privacy.get("delta") is not None})
    parts = [
        f"{data['name']}{made_up}: {data['users']:,} users, {data['items']:,} items. Split: {data['split']}.",
        f"Test, ranked among {ranking}; {bars(len(study.seeds))}.",
        f"Dashed: on to the same with {study.without_label}." if study.without else "",
        f"delta {', '.join(f'{delta:.0e}' for delta in deltas)}. {EXCLUDES}" if deltas else "",
        *(f"All {cost.trials} private trials together: {format_epsilon(cost.epsilon)}." for cost in costs),
    ]
    return "\n".join(textwrap.wrap(" ".join(part for part in parts if part), WIDTH_LETTERS))


def bars(seeds: int) -> str:
    """Return what the bars are."""
    return "one seed, so no intervals over seeds" if seeds == 1 else f"bars: 95 % over {seeds} seeds (Student's t)"


def _method(axes: Any, lines: list[Line], study: Study, colour: str, aside: float) -> list[Name]:
    """Draw one method's curve, on to the place without; `aside` keeps the bars of methods from covering each other."""
    metric = study.metric
    points = sorted((_place(study, line.value, aside), line.measured[metric]) for line in lines)
    if not points:
        return []
    places, means = [place for place, _ in points], [one.mean for _, one in points]
    halves = [(one.seeds.high - one.mean) if one.seeds else 0.0 for _, one in points]
    ends = len(points) - any(line.value is None for line in lines)
    axes.errorbar(places, means, halves, color=colour, marker="o", markersize=4, capsize=3, linewidth=0, elinewidth=1.2)
    axes.plot(places[:ends], means[:ends], color=colour, linewidth=1.8)
    axes.plot(places[ends - 1 :], means[ends - 1 :], color=colour, linewidth=1.4, linestyle=(0, (3, 2)))
    return [(places[-1], means[-1], lines[0].method, colour)]


def _place(study: Study, value: float | None, aside: float = 0.0) -> float:
    """Return where a value stands on the axis: the trials without stand one step beyond the last."""
    low, high = min(study.values, default=1.0), max(study.values, default=1.0)
    if study.scale == "log":
        return (2 * high if value is None else value) * 1.02**aside
    step = (high - low) / max(len(study.values) - 1, 1) or 1.0
    return (high + step if value is None else value) + 0.01 * step * len(study.values) * aside


def _references(results: Results) -> list[Line]:
    """Return the references, but for one that a method reaches exactly without: its curve ends there."""
    metric = results.study.metric
    reached = [line.measured[metric].mean for line in results.lines if line.value is None and not line.reference]
    found = [line for line in results.lines if line.reference]
    return [line for line in found if not any(abs(line.measured[metric].mean - one) < 1e-9 for one in reached)]


def _reference(axes: Any, line: Line, metric: str) -> list[Name]:
    mean = line.measured[metric].mean
    axes.axhline(mean, color=GREY, linestyle=(0, (1, 2)), linewidth=1.1, zorder=0)
    return [(axes.get_xlim()[1], mean, named(line), GREY)]


def _axes(axes: Any, results: Results) -> None:
    study = results.study
    values: list[float | None] = [*study.values, *([None] if study.without else [])]
    axes.set_xscale(study.scale)
    axes.set_xticks(
        [_place(study, value) for value in values],
        [study.without_label if value is None else f"{value:g}" for value in values],
    )
    axes.minorticks_off()
    axes.set_xlabel(study.label)
    kind = "99 sampled" if study.metric.startswith("sampled") else "full ranking"
    axes.set_ylabel(f"{LABELS[study.metric]} ({kind.replace('99', str(results.negatives))})")
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(bottom=0)


def _label(axes: Any, names: list[Name]) -> None:
    """Write each line's name at its right end, joined to it where the names had to move apart."""
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    ranked = sorted(names, key=lambda name: name[1])
    places = spread([mean for _, mean, _, _ in ranked], 0.05 * (high - low))
    for (_, mean, name, colour), place in zip(ranked, places, strict=True):
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            name, (right, mean), (1.03, place), textcoords=axes.get_yaxis_transform(), annotation_clip=False,
            fontsize=9, color=colour, va="center", arrowprops=arrow if _apart(mean, place, high - low) else None,
        )  # fmt: skip
    axes.set_ylim(low, high)


def _apart(mean: float, place: float, height: float) -> bool:
    return abs(place - mean) > 0.01 * height


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
