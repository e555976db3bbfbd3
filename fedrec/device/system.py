"""What the machine says of itself: power, load, network. Each answer is yes, no, or None where it can't be told."""

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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
