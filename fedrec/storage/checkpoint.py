"""Durable checkpoints: the arrays as safetensors, the rest as JSON in the same file; written whole or not at all."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from fedrec.errors import FedrecError
from fedrec.update import Arrays

KEEP = 2
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
