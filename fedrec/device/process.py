"""`python -m fedrec.device.process HOME`: one device, kept warm, that answers its server's messages."""

import contextlib
import logging
import sys
from pathlib import Path

import httpx

from fedrec.device.backend import respond
from fedrec.device.device import Device
from fedrec.device.home import Home
from fedrec.device.limits import DeviceLimits
from fedrec.errors import FedrecError
from fedrec.flower.fleet import FleetLine, TurnedAwayError, serve
from fedrec.ops.processes import TURNED_AWAY, stoppable

log = logging.getLogger(__name__)


def main(home: Home) -> int:
    """Answer until SIGTERM or SIGINT; return the exit status, its reason printed."""
    try:
        enrolment, device = home.enrolment(), Device(home)
        most_bytes = DeviceLimits.of(home).most_request_bytes
        line = FleetLine(enrolment.server, enrolment.certificate, home.key)
        with stoppable(), line.connected():
            log.info("connected to %s", enrolment.server)
            serve(line, lambda request: respond(lambda: device.answer(request)), most_bytes)
    except TurnedAwayError as error:
        log.error("%s", error)
        return TURNED_AWAY
    except FedrecError as error:
        log.error("%s", error)
        return 1
    except httpx.HTTPError as error:
        log.error("the server can't be reached: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(Home(Path(sys.argv[1]))))
