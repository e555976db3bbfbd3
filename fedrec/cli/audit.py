"""`fedrec audit`: from arguments to a table or JSON, and to an exit status."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fedrec.audit.attacks import attacks
from fedrec.audit.attacks import lines as attack_lines
from fedrec.audit.auditor import POINTS, Audit, audit, lines
from fedrec.audit.records import load_record, save_record
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.settings import Settings, load, read
from fedrec.report.html import write_page
from fedrec.report.privacy_card import cite_audit
from fedrec.storage.run_folder import RunFolder

CONTRADICTED = 1


def attack_command(overrides: Sequence[str], as_json: bool) -> int:
    """Attack what the mechanism of a run or of a configuration shows of its own data; return the exit status 0."""
    chosen = settings(overrides)
    experiment = chosen.experiment
    found = attacks(experiment, int(chosen.document["nodes"]))
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        print("\n".join(attack_lines(found, experiment.mechanism.terms)))
    return 0


def audit_command(overrides: Sequence[str], points: Sequence[float] | None, as_json: bool) -> int:
    """Audit the mechanism of a run or of a configuration; return the exit status, 1 where the claim is contradicted."""
    if any(not 0.5 <= point <= 20 for point in points or ()):
        raise FedrecError(
            "--epsilon: audit points lie between 0.5 and 20; outside, no number of canaries says anything"
        )
    experiment = settings(overrides).experiment
    found = audit(experiment, tuple(points or POINTS))
    print(json.dumps(found.json(), indent=2) if as_json else "\n".join(lines(found)))
    path = noted(found, experiment, next((Path(text) for text in overrides if "=" not in text), None))
    if not as_json:
        print(f"Kept for the privacy card: {path}")
    return CONTRADICTED if found.verdict == "contradicted" else 0


def noted(found: Audit, experiment: Experiment, run: Path | None) -> Path:
    """Keep an audit of a run or of settings; the card of a run that is over cites it from now on."""
    calibrated = experiment.calibrated(load_dataset(experiment))
    path = save_record(found.json(), calibrated, run)
    record = load_record(calibrated, path.parent)
    if run is not None and record is not None and (run / "privacy_card.json").exists():
        cite_audit(RunFolder(run), record)
        if (run / "metrics.json").exists():
            write_page(RunFolder(run))
    return path


def settings(overrides: Sequence[str]) -> Settings:
    """Return the settings of a run's folder, or those of the overrides."""
    folders = [text for text in overrides if "=" not in text]
    if not folders:
        return load(overrides)
    if len(overrides) > 1:
        raise FedrecError(f"fedrec audit {folders[0]} takes the run's own settings: leave out the other arguments")
    return read(Path(folders[0]) / "config.yaml")
