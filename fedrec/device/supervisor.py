"""`fedrec client up`: the device's process, started again whenever it ends, until it is told to stop."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedrec.device import saved_state
from fedrec.device.availability import AvailabilityPolicy
from fedrec.device.home import Home
from fedrec.device.saved_state import expire
from fedrec.device.status import page
from fedrec.errors import FedrecError
from fedrec.ops import processes
from fedrec.ops.prometheus import serve_metrics

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 60.0
LOOK_SECONDS, EXPIRE_SECONDS, SETTLED_SECONDS = 1.0, 3600.0, 15.0


def up(home: Home, only_when: str | None, say: Callable[[str], None], metrics: int | None = None) -> None:
    """Run the device until SIGTERM or SIGINT; leave nothing behind. `metrics` is a loopback port for Prometheus."""
    enrolment = home.enrolment()
    AvailabilityPolicy.of(home).overridden(only_when)
    with processes.only_one(home.path, "this device"), processes.stoppable():
        processes.say_up(home.path, only_when=only_when)
        try:
            say(f"Device {home.path} for {enrolment.server}; Ctrl-C stops it; its log: {home.log}")
            with serve_metrics(metrics, lambda: page(home)):
                supervise(home, say, lambda trouble: processes.say_up(home.path, only_when=only_when, trouble=trouble))
        finally:
            processes.say_down(home.path)
    say("Stopped.")


def supervise(home: Home, say: Callable[[str], None], tell: Callable[[str | None], None]) -> None:
    """Start the process again and again, waiting longer each time that it did not last.

    `tell` gets what is wrong, for `fedrec client status`, and None once a process has lasted for a while.
    """
    wait = FIRST_WAIT_SECONDS
    while True:
        started = time.monotonic()
        process = processes.start(command(home), processes.environment(home.path / "flower"), home.log)
        try:
            watch(home, process, say, tell)
        finally:
            processes.stop(process)
        lasted = time.monotonic() - started
        wait = FIRST_WAIT_SECONDS if lasted > LONGEST_WAIT_SECONDS else min(2 * wait, LONGEST_WAIT_SECONDS)
        pause = wait * random.uniform(0.8, 1.2)
        tell(why := explain_exit(home.log, process.returncode))
        say(f"{why}; again in {pause:.0f} s")
        time.sleep(pause)


def watch(
    home: Home, process: "subprocess.Popen[bytes]", say: Callable[[str], None], tell: Callable[[str | None], None]
) -> None:
    """Say what the device does until its process ends."""
    store = home.store()
    try:
        last, expires, settled = noted(store), 0.0, time.monotonic() + SETTLED_SECONDS
        while process.poll() is None:
            if time.monotonic() >= expires:
                expires = time.monotonic() + EXPIRE_SECONDS
                say_expired(home, store, say)
            if time.monotonic() >= settled:
                settled = float("inf")
                tell(None)
            now = noted(store)
            if now and now != last:
                say(now[0])
            last = now
            time.sleep(LOOK_SECONDS)
    finally:
        store.close()


def say_expired(home: Home, store: "saved_state.DeviceStore", say: Callable[[str], None]) -> None:
    """Forget what is too old, also on a device that never trains."""
    try:
        gone = expire(home, store)
    except FedrecError as error:
        say(str(error))
        return
    if gone:
        say(f"{gone:,} interactions older than policy.toml's retention_days forgotten")


def noted(store: "saved_state.DeviceStore") -> tuple[str, float] | None:
    """Return what the client app noted last, and when."""
    message = saved_state.load(store, "note")
    return None if message is None else (message.header["text"], message.header["at"])


def command(home: Home) -> list[str]:
    """Return the command line of the device's process."""
    return [sys.executable, "-m", "fedrec.device.process", str(home.path)]


def explain_exit(log: Path, status: int) -> str:
    """Return in words why a device's process ended."""
    if status == processes.TURNED_AWAY:
        return "the server did not admit this key, or still holds its last session"
    return f"the device's process ended with status {status}: see {log}"


def say_here(text: str) -> None:
    """Print a line at once, with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stdout, flush=True)
