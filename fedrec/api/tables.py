"""Tables and pictures as a notebook shows them: a pandas DataFrame where pandas is installed, else a small table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from fedrec.errors import FedrecError, suggest
from fedrec.report import plot

SHOWN_ROWS = 20


@dataclass(frozen=True, repr=False)
class Table:
    """Named columns of equal length: `table["loss"]` is one of them, iterating gives the rows as dictionaries.

    >>> rounds = Table({"round": [1, 2], "loss": [0.7, 0.5]})
    >>> rounds["loss"], [row["round"] for row in rounds]
    ([0.7, 0.5], [1, 2])
    """

    data: Mapping[str, Sequence[Any]]

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.data)

    def __len__(self) -> int:
        return max((len(column) for column in self.data.values()), default=0)

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self.data:
            raise KeyError(f"no column '{name}'.{suggest(name, self.data)}")
        return self.data[name]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in range(len(self)):
            yield {name: column[row] for name, column in self.data.items()}

    def __repr__(self) -> str:
        rows = [self.columns, *([shown(one[name]) for name in self.columns] for one in self._first())]
        widths = [max(len(row[n]) for row in rows) for n in range(len(self.columns))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, *([f"... {len(self):,} rows"] if len(self) > SHOWN_ROWS else [])])

    def _repr_html_(self) -> str:
        return to_html(self.columns, [[shown(one[name]) for name in self.columns] for one in self._first()])

    def _first(self) -> list[dict[str, Any]]:
        return [row for row, _ in zip(self, range(SHOWN_ROWS), strict=False)]


def make_table(columns: Mapping[str, Any]) -> Any:
    """Return the columns as a pandas DataFrame where pandas is installed, else as a `Table`."""
    if find_spec("pandas") is None:
        return Table(columns)
    import pandas  # pyright: ignore[reportMissingImports]

    return pandas.DataFrame(dict(columns))


def shown(value: Any) -> str:
    """Return a cell as people read it: four digits that mean something, blank where there is nothing."""
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def to_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table without any style of its own, so that a notebook's light and dark themes fit it."""
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True, repr=False)
class Picture:
    """A matplotlib figure that a notebook shows, and that `save(path)` writes; the ending decides the format."""

    figure: Any

    def save(self, path: str | Path) -> Path:
        """Write the picture as .svg, .pdf or .png and return where."""
        supported = self.figure.canvas.get_supported_filetypes()
        if (ending := Path(path).suffix.removeprefix(".")) not in supported:
            raise FedrecError(f"{path}: the ending decides the format.{suggest(ending, supported)}")
        plot.save(self.figure, Path(path))
        return Path(path)

    def __repr__(self) -> str:
        return "<fedrec picture; .save('picture.svg') writes it>"

    def _repr_png_(self) -> bytes:
        found = BytesIO()
        self.figure.savefig(found, format="png", dpi=110)
        return found.getvalue()


def draw_rounds(rounds: Mapping[str, Sequence[Any]], title: str) -> Picture:
    """Draw one panel for each figure that the rounds hold, against the round."""
    plot.check_installed()
    figure = plot.draw_rounds(plot.panels(rounds))
    figure.suptitle(title, fontsize=10)
    return Picture(figure)
