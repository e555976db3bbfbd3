"""`fedrec report RUN`: the page of a finished run, and its verdict."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from fedrec.errors import FedrecError
from fedrec.report.console import table, verdict
from fedrec.report.html import write_page
from fedrec.storage.run_folder import RunFolder


def run(arguments: Sequence[str]) -> None:
    """Carry out `fedrec report ...`."""
    root = argparse.ArgumentParser(prog="fedrec report", description="Write report.html of finished runs again.")
    root.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    root.add_argument("--json", action="store_true", help="print metrics.json of each instead of its table")
    options = root.parse_args(arguments)
    for path in options.runs:
        report(RunFolder(Path(path)), options.json)


def report(folder: RunFolder, as_json: bool) -> None:
    """Write the page of one run and print what it says."""
    for name in ("metrics.json", "privacy_card.json", "rounds.jsonl"):
        if not (folder.path / name).is_file():
            raise FedrecError(
                f"{folder.path}: no {name} in it; a finished run is expected: fedrec simulate --resume {folder.path} "
                "ends one that was stopped"
            )
    write_page(folder)
    values = json.loads((folder.path / "metrics.json").read_text())
    page = (folder.path / "report.html").resolve()
    print(json.dumps(values, indent=2) if as_json else f"{verdict(values)}\n\n{table(values)}\n\nPage: {page}")
