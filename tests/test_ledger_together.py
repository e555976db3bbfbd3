"""Two processes on one ledger, one of which opens it again while it has it open: nothing is lost or destroyed."""

import os
import subprocess
import sys
from pathlib import Path

from fedrec.privacy.base import Plan
from fedrec.privacy.ledger import Ledger
from fedrec.privacy.ledger_store import LedgerStore
from fedrec.privacy.none import NoPrivacy
from fedrec.privacy.places import ledger_path

ROOT = Path(__file__).parent.parent
PLAN = Plan(population=3, interactions=9, cohort_rate=1.0, rounds=1, trains=False)
OTHER = """
import sys
from fedrec.privacy.ledger_store import LedgerStore
from fedrec.privacy.places import ledger_path
from tests.test_ledger_together import opened
opened(sys.argv[1]).close()
print(" ".join(LedgerStore(ledger_path("people")).runs()))
"""


def opened(run: str) -> Ledger:
    return Ledger.open("people", run, NoPrivacy(), PLAN, 3)


def another_process(name: str) -> list[str]:
    """Write an entry from another process and close; return the runs that it saw."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", OTHER, name], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_two_processes_write_in_turn_is_all_there() -> None:
    """Closing any descriptor of a file drops all locks that the process has on it: SQLite's own as well."""
    mine, expected = opened("mine"), ["mine"]
    for number in range(3):
        opened(f"mine-{number}").close()
        expected += [f"mine-{number}", f"other-{number}"]
        assert another_process(f"other-{number}") == sorted(expected)
    mine.reserve(1)
    mine.close()
    again = LedgerStore(ledger_path("people"))
    assert again.runs() == sorted(expected)
    assert again._database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
