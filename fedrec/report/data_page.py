"""The page of `fedrec data check`: its lines and, drawn, how long histories are, how uneven items, when rows came.

The figures are exact: the page is for whoever holds the data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.data.dataset import Dataset
from fedrec.data.interactions import Interactions
from fedrec.errors import FedrecError
from fedrec.report import plot
from fedrec.report.data_check import DataCheck
from fedrec.report.privacy_card import templates
from fedrec.storage.run_folder import atomic_write

BARS = 24  # of a picture
THOUSANDS = 10_000  # of the highest bar, from which on an axis counts thousands
TENS = 10  # parts of the catalogue, by how often items were used


@dataclass(frozen=True, slots=True)
class Counted:
    """Bars: what they count of what, each with its label and its height."""

    title: str
    axis: str
    counted: str
    labels: Sequence[str]
    counts: Sequence[int]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The labels and heights as text."""
        return [(label, f"{count:,}") for label, count in zip(self.labels, self.counts, strict=True)]


def write_data_page(path: Path, found: DataCheck) -> None:
    """Write one page, complete in itself, which only its owner may read."""
    if not path.parent.is_dir():
        raise FedrecError(f"{path.parent}: no such folder; --page FILE.html names a file to write")
    counted = list(count_all(found.dataset))
    pictures = [plot.inline(draw(one), describe(one)) for one in counted] if plot.installed() else []
    first, *lines = found.lines()
    page = (
        templates()
        .get_template("data.html")
        .render(
            name=found.dataset.name,
            sizes=first.partition(": ")[2],
            warnings=[line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")],
            lines=[line for line in lines if not line.startswith("warning: ")],
            pictures=pictures,
            tables=counted,
        )
    )
    atomic_write(path, page.encode(), 0o600)


def count_all(dataset: Dataset) -> Iterator[Counted]:
    """Yield what is drawn of a data set; of one without rows, or whose devices hold them, less or nothing."""
    if not len(dataset.devices.item):
        return
    yield histogram(np.diff(dataset.devices.start), "Histories", "interactions of a user", "users")
    yield tenths(np.bincount(dataset.devices.item, minlength=len(dataset.catalogue)))
    if dataset.facts is not None and dataset.facts.ratings is not None and dataset.facts.ratings.scale:
        seen = dataset.facts.ratings
        yield Counted("Ratings", "rating", "rows as read", [f"{value:g}" for value in seen.scale], seen.counts)
    table = dataset.interactions
    if isinstance(table, Interactions) and dataset.facts is not None and dataset.facts.order == "time":
        yield over_time(table.time, dataset)


def histogram(values: NDArray[np.int64], title: str, axis: str, counted: str) -> Counted:
    """Return how many values fall into each of some spans, which widen where values spread widely."""
    low, high = int(values.min()), int(values.max())
    edges = np.unique(np.rint(np.geomspace(max(low, 1), max(high, 1) + 1, BARS + 1)).astype(np.int64))
    counts, _ = np.histogram(values, bins=edges) if len(edges) > 1 else (np.array([len(values)]), edges)
    ends = edges[1:] - 1 if len(edges) > 1 else edges
    labels = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in zip(edges[: len(counts)], ends, strict=True)]
    return Counted(title, axis, counted, labels, counts.tolist())


def tenths(uses: NDArray[np.int64]) -> Counted:
    """Return how many interactions each tenth of the items has, the most used ones first."""
    parts = [int(part.sum()) for part in np.array_split(np.sort(uses)[::-1], min(TENS, len(uses)))]
    labels = [str(n) for n in range(1, len(parts) + 1)]
    return Counted("Items", "tenth of the items, from the most used", "interactions", labels, parts)


def over_time(time: NDArray[np.int64], dataset: Dataset) -> Counted:
    """Return how many interactions fall into each of some equal spans of time."""
    low, high = int(time.min()), int(time.max())
    step = max(-(-(high - low + 1) // BARS), 1)
    counts = np.bincount((time - low) // step, minlength=1)
    labels = [dataset.clock.date(low + n * step).partition(" ")[0] for n in range(len(counts))]
    return Counted("Time", "from", "interactions", labels, counts.tolist())


def draw(found: Counted) -> Any:
    """Return a figure of bars with the first, the middle and the last label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(plot.WIDE, plot.TALL))
    axes = figure.add_axes((0.55 / plot.WIDE, 0.5 / plot.TALL, 1 - 0.65 / plot.WIDE, 1 - 0.85 / plot.TALL))
    places = range(len(found.counts))
    axes.bar(places, found.counts, color=plot.COLOURS[0], width=0.85)
    few = sorted({0, (len(places) - 1) // 2, len(places) - 1})
    axes.set_xticks(few, [found.labels[place] for place in few])
    for place, text in zip(few, axes.get_xticklabels(), strict=True):
        text.set_horizontalalignment("left" if place == 0 else "right" if place == few[-1] else "center")
    axes.set(xlabel=found.axis, title=f"{found.title}: {found.counted}")
    unit, name = (1_000, " k") if max(found.counts) >= THOUSANDS else (1, "")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value / unit:,.0f}{name}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def describe(found: Counted) -> str:
    """Return what a picture shows, in words."""
    most = int(np.argmax(found.counts))
    return f"{found.title}: {found.counted} by {found.axis}; most, {found.counts[most]:,}, at {found.labels[most]}"
