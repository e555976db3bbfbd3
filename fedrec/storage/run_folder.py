"""The run folder: what lies where, and who may read it.

`catalogue.parquet` holds the ids and titles that a run's item rows stand for.

Durable checkpoints: the arrays as safetensors, the rest as JSON in the same file; written whole or not at all.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from safetensors.numpy import load, save

from fedrec.data.catalogue import Catalogue, texts
from fedrec.errors import FedrecError
from fedrec.messages import Arrays

KEEP, KEEP_RELEASES_MB = 2, 100.0
NOTES, MEMORY = "notes/json", "memory/"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The server's state after a round, and what the run has to remember beside it (`notes`).

    `mechanism_state` is the mechanism's: it may hold noise that is still secret, and is no part of any release.
    """

    round: int
    state: Arrays
    notes: dict[str, Any]
    mechanism_state: Arrays = field(default_factory=Arrays)


def atomic_write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, on disk."""
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint durably and drop all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = json.dumps({**checkpoint.notes, "round": checkpoint.round, "order": list(checkpoint.state)}).encode()
    memory = {MEMORY + name: array for name, array in checkpoint.mechanism_state.items()}
    body = save({**checkpoint.state, **memory, NOTES: np.frombuffer(notes, np.uint8)})
    digest = hashlib.sha256(body).digest()
    atomic_write(folder / f"round-{checkpoint.round:06d}.safetensors", body + digest, 0o600)
    for old in sorted(folder.glob("round-*.safetensors"))[:-KEEP]:
        old.unlink()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint, None where there is none yet; a damaged one is an error that names the file.

    An older one would repeat a round that was released already, so falling back is left to the user.
    """
    files = sorted(folder.glob("round-*.safetensors"))
    if not files:
        return None
    content = files[-1].read_bytes()
    body, digest = content[:-32], content[-32:]
    if hashlib.sha256(body).digest() != digest:
        raise FedrecError(f"{files[-1]} is damaged: its checksum does not fit. Put back a copy, or start a new run")
    arrays = load(body)
    notes = json.loads(arrays.pop(NOTES).tobytes())
    # safetensors gives names in any order, and seeded noise is drawn in the order of the state.
    state = {name: arrays[name] for name in notes.pop("order")}
    memory = {name.removeprefix(MEMORY): arrays[name] for name in sorted(arrays) if name.startswith(MEMORY)}
    return Checkpoint(notes.pop("round"), state, notes, memory)


EXACT_LABEL = "exact, simulation only, not covered by epsilon"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run. Everything under `exact/`, `private/` and `checkpoint/` is for its owner only.

    It keeps the releases of all rounds where they come to at most `keep_releases_mb` megabytes.
    """

    path: Path
    keep_releases_mb: float = KEEP_RELEASES_MB

    @property
    def exact(self) -> Path:
        """Where exact figures lie."""
        return self.path / "exact"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoint"

    @property
    def releases(self) -> Path:
        """Where the releases of the rounds are kept."""
        return self.path / "releases"

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
        own = (self.exact, self.checkpoints, self.private, self.releases, self.path / "baselines")
        if not self.config.exists() and (strange := [f for f in own if f.exists() and any(f.iterdir())]):
            raise FedrecError(f"{strange[0]} is not empty, and {self.path} holds no run: choose another name=")
        for folder in own:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
        cards = ("privacy_card.json", "privacy_card.md")
        told = ("rounds.jsonl", "metrics.json", "audit.json", "inputs.json", "report.html")
        for name in (*told, *cards, "model.safetensors"):
            (self.path / name).unlink(missing_ok=True)
        atomic_write(self.config, config.encode())

    def write_json(self, name: str, value: Mapping[str, Any], mode: int = 0o644) -> None:
        """Write a JSON file durably."""
        atomic_write(self.path / name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), mode)

    def model_hash(self) -> str:
        """Return the hash of the released model, by which a card is that of this model."""
        model = self.path / "model.safetensors"
        return f"sha256 {hashlib.sha256(model.read_bytes()).hexdigest()}" if model.exists() else "none was released"

    def write_inputs(self, told: Sequence[str]) -> None:
        """Keep what the model starts from; nothing is written where that is nothing."""
        if told:
            self.write_json("inputs.json", {"inputs": list(told)})

    def read_inputs(self) -> list[str]:
        """Return what the model started from."""
        path = self.path / "inputs.json"
        return list(json.loads(path.read_text())["inputs"]) if path.exists() else []

    def append_round(self, public: Mapping[str, Any], exact: Mapping[str, Any]) -> None:
        """Append one line to rounds.jsonl, and the same with its exact figures to exact/rounds.jsonl."""
        for path, value, mode in (
            (self.path / "rounds.jsonl", public, 0o644),
            (self.exact / "rounds.jsonl", {"label": EXACT_LABEL, **exact}, 0o600),
        ):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
            with os.fdopen(descriptor, "a") as file:
                file.write(json.dumps(value, allow_nan=False) + "\n")

    def keep_release(self, round_number: int, content: bytes) -> None:
        """Write what a round released, whole or not at all; one that was kept of a lost round is replaced."""
        self.releases.mkdir(mode=0o700, exist_ok=True)
        atomic_write(self.releases / f"round-{round_number:06d}.safetensors", content, 0o600)

    def kept_releases(self) -> list[Path]:
        """Return the files of the releases that are kept, in the order of their rounds."""
        return sorted(self.releases.glob("round-*.safetensors"))

    def exact_rounds(self) -> list[dict[str, Any]]:
        """Return the lines of all rounds so far, those before a resume included."""
        path = self.exact / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def truncate_rounds(self, last: int) -> int:
        """Drop lines of rounds after `last`, and a line torn by a kill; return the last round that has its line.

        Releases of rounds after `last` go too: those rounds left no checkpoint, and so released nothing.
        """
        for path in self.kept_releases():
            if int(path.stem.removeprefix("round-")) > last:
                path.unlink()
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


def save_table(path: Path, values: Mapping[str, NDArray[Any]]) -> None:
    """Write a table of users as .npz, readable by its owner only: it is exact and not covered by any epsilon."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **values)


def load_table(path: Path) -> dict[str, NDArray[Any]]:
    """Read a table that `save_table` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_catalogue(path: Path, catalogue: Catalogue) -> None:
    """Write one row an item: id, title."""
    columns = {"id": catalogue.ids.tolist(), "title": catalogue.titles.tolist()}
    parquet.write_table(pa.table(columns), path, compression="zstd")


def read_catalogue(path: Path) -> Catalogue:
    """Return the items of a run folder, their ids and titles; features are the data set's alone."""
    try:
        table = parquet.read_table(path)
        ids, titles = (texts(table[name].to_pylist()) for name in ("id", "title"))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise FedrecError(f"{path} is not the catalogue of a run: {str(error).splitlines()[0]}") from error
    return Catalogue(ids, titles, np.zeros((len(ids), 0), np.float32), (), "run folder")
