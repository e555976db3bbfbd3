"""When a device takes part, and why it does not, in words.

The machine says of itself: power, load, network; each answer is yes, no, or None where it can't be told.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from fedrec.device.home import Home, checked_table
from fedrec.errors import FedrecError, suggest
from fedrec.ops import processes

BUSY_SHARE = 0.5  # of all processors, from which on the machine counts as in use
SAMPLE_SECONDS = 0.5
METERED = {"1": True, "2": False, "3": True, "4": False}  # NetworkManager's yes, no, guess yes, guess no


@dataclass(frozen=True, slots=True)
class System:
    """Where to read; tests put folders of their own here."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    sleep: Callable[[float], None] = time.sleep
    network: Callable[[], str | None] = field(default=lambda: network_manager())

    def charging(self) -> bool | None:
        """Say whether mains power is there; a machine without a battery has it."""
        supplies = [p for p in (self.sys / "class" / "power_supply").glob("*") if self._text(p / "scope") != "Device"]
        if not supplies:
            return True
        mains = [p for p in supplies if self._text(p / "type") not in ("Battery", "UPS")]
        if any(self._text(p / "online") == "1" for p in mains):
            return True
        states = [self._text(p / "status") for p in supplies if p not in mains]
        if any(state == "Discharging" for state in states):
            return False
        return True if any(state in ("Charging", "Full") for state in states) else None

    def idle(self) -> bool | None:
        """Say whether less than half of the processors' time is used now, this process asleep."""
        first = self._busy()
        self.sleep(SAMPLE_SECONDS)
        second = self._busy()
        if first is None or second is None or second[1] <= first[1]:
            return None
        return (second[0] - first[0]) / (second[1] - first[1]) < BUSY_SHARE

    def unmetered(self) -> bool | None:
        """Say whether NetworkManager, where there is one, takes the connection for unmetered."""
        metered = METERED.get(self.network() or "")
        return None if metered is None else not metered

    def _busy(self) -> tuple[float, float] | None:
        """Return (busy, all) ticks of all processors since the start."""
        fields = self._text(self.proc / "stat").partition("\n")[0].split()[1:9]
        if len(fields) < 5:
            return None
        ticks = [float(text) for text in fields]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)

    @staticmethod
    def _text(path: Path) -> str:
        try:
            return path.read_text().strip()
        except OSError:
            return ""


def network_manager() -> str | None:
    """Return NetworkManager's Metered property as a digit, or None where it does not answer."""
    program = shutil.which("busctl")
    if program is None:
        return None
    place = "org.freedesktop.NetworkManager"
    command = [program, "--system", "get-property", place, "/org/freedesktop/NetworkManager", place, "Metered"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=3, check=False).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said[1] if len(said) == 2 and said[0] == "u" else None


CONDITIONS = ("idle", "charging", "unmetered")
HOURS = re.compile(r"(\d{1,2})-(\d{1,2})")


@dataclass(frozen=True, slots=True)
class AvailabilityPolicy:
    """What must hold before a device trains: [participation] in policy.toml; `hours` such as "22-6", local time."""

    idle: bool = True
    charging: bool = True
    unmetered: bool = True
    hours: str | None = None

    def __post_init__(self) -> None:
        for name in CONDITIONS:
            if not isinstance(getattr(self, name), bool):
                raise FedrecError(f"participation.{name}={getattr(self, name)}: true or false is expected")
        if self.hours is not None:
            span(self.hours)

    @classmethod
    def of(cls, home: Home) -> "AvailabilityPolicy":
        """Return what policy.toml says, and over it what the running `fedrec client up` was told."""
        policy = cast(
            AvailabilityPolicy, checked_table(cls, home.table("participation"), f"{home.policy}: participation")
        )
        return policy.overridden(processes.running(home.path).get("only_when"))

    def overridden(self, only_when: str | None) -> "AvailabilityPolicy":
        """Return the policy of `--only-when`: the conditions named, and no other; None changes nothing."""
        if only_when is None:
            return self
        names = [name.strip() for name in only_when.split(",") if name.strip() and name.strip() != "always"]
        hours = [name.removeprefix("hours=") for name in names if name.startswith("hours=")]
        for name in names:
            if name not in CONDITIONS and not name.startswith("hours="):
                raise FedrecError(f"--only-when {name}: no such condition.{suggest(name, (*CONDITIONS, 'always'))}")
        return replace(self, **{c: c in names for c in CONDITIONS}, hours=hours[-1] if hours else None)


def span(hours: object) -> tuple[int, int]:
    """Return (from, to) of "22-6", as a policy file gives it: whatever else stands there is refused."""
    match = HOURS.fullmatch(hours.strip()) if isinstance(hours, str) else None
    if match is None or not (0 <= int(match[1]) <= 23 and 0 <= int(match[2]) <= 24):
        raise FedrecError(f'participation.hours={hours}: two hours of the day expected, such as "22-6"')
    return int(match[1]), int(match[2])


def within(hours: str, now: datetime) -> bool:
    """Say whether the hour lies in a span that may go past midnight; equal ends are the whole day."""
    first, last = span(hours)
    if first == last % 24:
        return True
    return first <= now.hour < last if first < last else now.hour >= first or now.hour < last


def check_conditions(policy: AvailabilityPolicy, system: System, now: datetime) -> list[tuple[bool, str]]:
    """Return (allowed, said) for every condition that the policy sets; what can't be told is allowed."""
    told: Sequence[tuple[str, Any, str, str]] = (
        ("charging", system.charging, "on mains power", "on battery"),
        ("unmetered", system.unmetered, "the connection is not metered", "the connection is metered"),
        ("idle", system.idle, "the machine is idle", "the machine is in use"),
    )
    found = list[tuple[bool, str]]()
    if policy.hours is not None:
        inside = within(policy.hours, now)
        found.append((inside, f"it is {now:%H:%M}, {'within' if inside else 'outside'} {policy.hours} h"))
    for name, read, yes, no in told:
        if getattr(policy, name):
            answer = read()
            said = f"{name}: can't be told here" if answer is None else yes if answer else no
            found.append((answer is not False, said))
    return found


def unavailable_reason(
    policy: AvailabilityPolicy, system: System | None = None, now: datetime | None = None
) -> str | None:
    """Return why the device may not train now, or None where it may."""
    found = check_conditions(policy, system or System(), now or datetime.now())
    return ", ".join(said for allowed, said in found if not allowed) or None
