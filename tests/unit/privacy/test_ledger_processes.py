"""Two processes on one ledger, one of which opens it again while it has it open: nothing is lost or destroyed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrec.paths import ledger_path
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.ledger.store import LedgerStore
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import TrainingPlan

ROOT = Path(__file__).parents[3]
PLAN = TrainingPlan(population=3, interactions=9, cohort_rate=1.0, rounds=1, trains=False)
OTHER = """
import sys
from fedrec.privacy.ledger.store import LedgerStore
from fedrec.paths import ledger_path
from tests.unit.privacy.test_ledger_processes import opened
for line in sys.stdin:
    opened(line.strip()).close()
    store = LedgerStore(ledger_path("people"))
    print(" ".join(store.runs()), flush=True)
    store.close()
"""


def opened(run: str) -> Ledger:
    return Ledger.open("people", run, NoPrivacy(), PLAN, 3)


@contextmanager
def another_process() -> Iterator[Callable[[str], list[str]]]:
    """Give what writes an entry from another process, closes the ledger there, and returns the runs that it saw."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        sent, said = process.stdin, process.stdout
        assert sent is not None and said is not None

        def write(name: str) -> list[str]:
            print(name, file=sent, flush=True)
            return said.readline().split()

        yield write
        sent.close()
        assert process.wait() == 0


def test_what_two_processes_write_in_turn_is_all_there() -> None:
    """Closing any descriptor of a file drops all locks that the process has on it: SQLite's own as well."""
    mine, expected = opened("mine"), ["mine"]
    with another_process() as write:
        for number in range(3):
            opened(f"mine-{number}").close()
            expected += [f"mine-{number}", f"other-{number}"]
            assert write(f"other-{number}") == sorted(expected)
    mine.reserve(1)
    mine.close()
    again = LedgerStore(ledger_path("people"))
    assert again.runs() == sorted(expected)
    assert again._database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
