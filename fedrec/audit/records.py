"""What an audit found, kept where a privacy card can cite it: in the folder of a run, or for settings in the state.

A record names the code and the settings that it is of, by hashes. A card cites a record of its own settings, and says
so where it is of other code.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedrec.errors import FedrecError
from fedrec.paths import state_dir
from fedrec.storage.checkpoint import atomic_write
from fedrec.version import __version__

if TYPE_CHECKING:
    from fedrec.experiment.experiment import Experiment

FILE = "audit.json"
NO_AUDIT = "none of these settings: `fedrec audit RUN` measures their mechanism"
# What an audit sets itself at its points, and what says nothing of the mechanism.
LEFT_OUT = {"epsilon", "delta", "noise_multiplier", "max_participations", "bands", "coefficients", "population_epsilon"}


@dataclass(frozen=True, slots=True)
class Record:
    """An audit as it is kept: hashes of its settings and its code, the day, and `found`, the audit as JSON."""

    settings: str
    code: str
    day: str
    found: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The worst of what was found."""
        return str(self.found["verdict"])

    def cited(self, code: str) -> str:
        """Return what a card of a run of this code says of the record."""
        of = "this code" if self.code == code else f"other code ({self.code}) than that of the run"
        trials = cast(list[dict[str, Any]], self.found["trials"])
        noise = ", ".join(
            f"{trial['measured']:.3f} of {trial['reported']:.3f} ({trial['ratio']:.3f})"
            for trial in trials
            if trial["ratio"] is not None
        )
        others = ", ".join(sorted({f"{t['trial']} {t['verdict']}" for t in trials if t["trial"] != "noise"}))
        sampling = f"; {others}" if others else ""
        return f"{self.verdict}: an adversary measured epsilon {noise or '-'}{sampling}; {of}, {self.day}"


@cache
def code_hash() -> str:
    """Return the hash of fedrec's own source, 16 hexadecimal digits."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def settings_hash(experiment: "Experiment") -> str:
    """Return the hash of what of a (calibrated) experiment an audit is of: its mechanism, and what it trains by."""
    node = experiment.node()
    privacy = {key: value for key, value in node["privacy"].items() if key not in LEFT_OUT}
    sampled = node["cohort"]["size"] is not None
    told = {"privacy": privacy, "trains": experiment.algorithm.trains, "engine": node["engine"], "sampled": sampled}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def save_record(found: dict[str, Any], experiment: "Experiment", folder: Path | None = None) -> Path:
    """Write the record of an audit of a calibrated experiment, into `folder` or the state folder; return its path."""
    settings = settings_hash(experiment)
    path = _path(settings) if folder is None else folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"settings": settings, "code": code_hash(), "day": time.strftime("%Y-%m-%d", time.gmtime()), "found": found}
    atomic_write(path, (json.dumps(told, indent=2, allow_nan=False) + "\n").encode())
    return path


def load_record(experiment: "Experiment", folder: Path) -> Record | None:
    """Return the record of these settings: of the run, else of the settings; None where there is none."""
    settings = settings_hash(experiment)
    for path in (folder / FILE, _path(settings)):
        if path.exists() and (found := _read(path)).settings == settings:
            return found
    return None


def _path(settings: str) -> Path:
    return state_dir() / "audits" / f"{settings}.json"


def _read(path: Path) -> Record:
    try:
        return Record(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise FedrecError(f"{path} is no record of an audit: delete it and audit again") from error
