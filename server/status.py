"""How a run goes, for the operator: a file that `fedrec server up` turns into Prometheus metrics."""

import json
import time
from collections.abc import Sequence
from typing import Any

from fedrec.checkpoint import write_durably
from fedrec.messages import DECLINED
from fedrec.rounds import Round, Session
from server.home import ServerHome

LATE = "no answer before the deadline"


def write_status(home: ServerHome, session: Session, done: Sequence[Round]) -> None:
    """Write what the rounds since the start or resume came to; exact, for the operator alone, not for publication."""
    reasons = [reason for report in done for reason in report.rejected.values()]
    late, declined = reasons.count(LATE), sum(DECLINED in reason for reason in reasons)
    answered = sum(report.answered for report in done)
    values: dict[str, Any] = {
        "at": time.time(),
        "run": session.folder.path.name,
        "round": done[-1].round,
        "rounds": session.experiment.rounds,
        "asked": answered + len(reasons),
        "drawn": sum(report.cohort for report in done),
        "answered": answered,
        "late": late,
        "declined": declined,
        "refused": len(reasons) - late - declined,
        "epsilon": done[-1].epsilon,
        "round_seconds": done[-1].seconds,
        "bytes_down": sum(report.bytes_down for report in done),
        "bytes_up": sum(report.bytes_up for report in done),
    }
    write_durably(home.status, json.dumps(values).encode() + b"\n", 0o600)
