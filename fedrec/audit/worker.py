"""One trial in a process of its own: `python -m fedrec.audit.worker`, the trial on standard input, both as JSON."""

import json
import sys
from dataclasses import asdict

from fedrec.audit.trials import Trial

if __name__ == "__main__":
    print(json.dumps(asdict(Trial(**json.load(sys.stdin)).run())))
