"""Two processes on one ledger, one of which opens it again while it has it open: nothing is lost or destroyed."""

import os
import subprocess
import sys
from pathlib import Path

from fedrec.privacy.ledger_store import LedgerStore
from fedrec.privacy.places import ledger_path

ROOT = Path(__file__).parent.parent
WRITE = """
import sys
from fedrec.privacy.ledger_store import LedgerStore
from fedrec.privacy.places import ledger_path
store = LedgerStore(ledger_path("people"))
with store.transaction():
    store.append(sys.argv[1], "open", {})
print(" ".join(store.runs()))
store.close()
"""


def another_process(name: str) -> list[str]:
    """Write an entry from another process and close; return the runs that it saw."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WRITE, name], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_two_processes_write_in_turn_is_all_there() -> None:
    """Closing any descriptor of a file drops all locks that the process has on it: SQLite's own as well."""
    mine = LedgerStore(ledger_path("people"))
    LedgerStore(ledger_path("people")).close()
    expected = list[str]()
    for number in range(3):
        with mine.transaction():
            mine.append(f"mine-{number}", "open", {})
        expected += [f"mine-{number}", f"other-{number}"]
        assert another_process(f"other-{number}") == sorted(expected)
        assert mine.runs() == sorted(expected)
    mine.close()
    again = LedgerStore(ledger_path("people"))
    assert again.runs() == sorted(expected)
    assert again._database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
