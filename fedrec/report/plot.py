"""Pictures by matplotlib, the one library that draws: for a run's page, a study, a notebook and the documents.

It comes with fedrec[report]. Without it a page shows the same figures as a table.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from fedrec.errors import FedrecError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's
GREY = "#777777"
PANELS = {"validation": "validation NDCG@10", "loss": "mean training loss", "epsilon": "epsilon spent so far"}
WIDE, TALL = 3.5, 2.5  # inches of a panel: at its own size a page shows its text at 13 pixels, and it fits a phone
# Real text, and the same bytes each time.
SVG: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "fedrec", "font.family": "sans-serif"}
IN_PAGE = {COLOURS[0]: "var(--ours)", COLOURS[-1]: "currentColor", GREY: "var(--soft)"}
UNNAMED = dict.fromkeys(("Creator", "Date", "Format", "Type"))
Rounds = Mapping[str, Sequence[Any]]
Points = list[tuple[float, float]]


def installed() -> bool:
    """Say whether matplotlib is here."""
    return find_spec("matplotlib") is not None


def check_installed() -> None:
    """Refuse, naming the extra, where matplotlib is not installed."""
    if not installed():
        raise FedrecError(
            "the picture needs matplotlib, which is not installed: pip install 'fedrec[report]', or --no-picture for "
            "the table alone"
        )


def save(figure: Any, path: Path) -> None:
    """Write a figure; the ending decides the format."""
    from matplotlib import rc_context

    with rc_context(SVG):
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def panels(rounds: Rounds) -> dict[str, Points]:
    """Return the (round, value) points of each figure of PANELS that the rounds hold."""
    found = {
        name: [(n, y) for n, y in zip(rounds["round"], rounds[name], strict=True) if y is not None]
        for name in PANELS
        if name in rounds
    }
    return {name: points for name, points in found.items() if points}


def draw_rounds(found: Mapping[str, Points]) -> Any:
    """Return a figure with a panel of the size WIDE x TALL inches for each figure of the rounds, side by side."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDE * max(len(found), 1), TALL))
    for place, (name, points) in enumerate(found.items()):
        left = (place * WIDE + 0.55) / (WIDE * len(found))
        axes = figure.add_axes((left, 0.5 / TALL, (WIDE - 0.65) / (WIDE * len(found)), 1 - 0.85 / TALL))
        axes.plot(*zip(*points, strict=True), color=COLOURS[0], marker="o", markersize=3, linewidth=1.5)
        axes.set(xlabel="round", title=PANELS[name])
        axes.set_ylim(min(0.0, *(y for _, y in points)), max(0.0, 1.08 * max(y for _, y in points)) or 1.0)
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    return figure


def inline(figure: Any, label: str) -> str:
    """Return a figure as an <svg> that stands in a page: in the page's own colours, asking for nothing outside it.

    `label` is what a screen reader says instead.
    """
    from matplotlib import rc_context

    text = StringIO()
    with rc_context(SVG):
        figure.savefig(text, format="svg", transparent=True, metadata=UNNAMED)
    svg = text.getvalue()
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| id="[A-Za-z0-9]+_\d+"|<style.*?</style>', "", svg, flags=re.DOTALL)
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    for colour, variable in IN_PAGE.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
