"""The run folder: what lies where, and who may read it.

`catalogue.parquet` holds the ids and titles that a run's item rows stand for.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError
from fedrec.storage.checkpoint import atomic_write

EXACT_LABEL = "exact, simulation only, not covered by epsilon"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run. Everything under `exact/`, `private/` and `checkpoint/` is for its owner only."""

    path: Path

    @property
    def exact(self) -> Path:
        """Where exact figures lie."""
        return self.path / "exact"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoint"

    @property
    def private(self) -> Path:
        """Where simulated devices keep what never leaves them."""
        return self.path / "private"

    def best_private(self, round_number: int) -> Path:
        """Where the private arrays of the best round are kept, with evaluation.select=best."""
        return self.exact / f"private-{round_number:06d}"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    def create(self, config: str, overwrite: bool = False) -> None:
        """Make the folder with its configuration; an existing run is refused unless it may be overwritten."""
        if self.config.exists() and not overwrite:
            raise FedrecError(
                f"{self.path} holds a run already: go on with --resume {self.path}, choose another name=, "
                "or set overwrite=true"
            )
        own = (self.exact, self.checkpoints, self.private, self.path / "baselines")
        if not self.config.exists() and (strange := [f for f in own if f.exists() and any(f.iterdir())]):
            raise FedrecError(f"{strange[0]} is not empty, and {self.path} holds no run: choose another name=")
        for folder in own:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
        cards = ("privacy_card.json", "privacy_card.md")
        for name in ("rounds.jsonl", "metrics.json", "audit.json", *cards, "model.safetensors", "report.html"):
            (self.path / name).unlink(missing_ok=True)
        atomic_write(self.config, config.encode())

    def write_json(self, name: str, value: Mapping[str, Any], mode: int = 0o644) -> None:
        """Write a JSON file durably."""
        atomic_write(self.path / name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), mode)

    def append_round(self, public: Mapping[str, Any], exact: Mapping[str, Any]) -> None:
        """Append one line to rounds.jsonl, and the same with its exact figures to exact/rounds.jsonl."""
        for path, value, mode in (
            (self.path / "rounds.jsonl", public, 0o644),
            (self.exact / "rounds.jsonl", {"label": EXACT_LABEL, **exact}, 0o600),
        ):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
            with os.fdopen(descriptor, "a") as file:
                file.write(json.dumps(value, allow_nan=False) + "\n")

    def exact_rounds(self) -> list[dict[str, Any]]:
        """Return the lines of all rounds so far, those before a resume included."""
        path = self.exact / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def truncate_rounds(self, last: int) -> int:
        """Drop lines of rounds after `last`, and a line torn by a kill; return the last round that has its line."""
        paths = (self.exact / "rounds.jsonl", self.path / "rounds.jsonl")
        lines = [path.read_text().splitlines() if path.exists() else [] for path in paths]
        newest = min(max((n for n in map(_round_of, found) if n <= last), default=0) for found in lines)
        for path, found in zip(paths, lines, strict=True):
            if path.exists():
                kept = [line for line in found if 1 <= _round_of(line) <= newest]
                atomic_write(path, "".join(line + "\n" for line in kept).encode(), path.stat().st_mode & 0o777)
        return newest


def _round_of(line: str) -> int:
    try:
        return int(json.loads(line)["round"])
    except (ValueError, KeyError, TypeError):
        return 0


def write_catalogue(path: Path, catalogue: Catalogue) -> None:
    """Write one row an item: id, title."""
    columns = {"id": catalogue.ids.tolist(), "title": catalogue.titles.tolist()}
    parquet.write_table(pa.table(columns), path, compression="zstd")


def read_catalogue(path: Path) -> Catalogue:
    """Return the items of a run folder, their ids and titles; features are the data set's alone."""
    try:
        table = parquet.read_table(path)
        ids, titles = (np.array(table[name].to_pylist(), dtype=np.str_) for name in ("id", "title"))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise FedrecError(f"{path} is not the catalogue of a run: {str(error).splitlines()[0]}") from error
    return Catalogue(ids, titles, np.zeros((len(ids), 0), np.float32), (), "run folder")
