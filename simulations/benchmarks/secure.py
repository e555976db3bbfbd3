"""What a secure sum costs: processor seconds of a device and of the server, and bytes against a plain float32 vector.

    python -m simulations.benchmarks.secure --devices 100 1000 --numbers 118592 --dropped 0.05 0.3

Every message of every device is made, sent through memory and checked; the sum is held against the plain one. Who drops
out does so after it shared its secrets and before its vector came, which costs the server most.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import process_time

import numpy as np

from fedrec.errors import FedrecError
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user_secure import UserSecure
from fedrec.secure.attempt import Phase, SecureTerms
from fedrec.secure.device import DeviceState, SecureDevice
from fedrec.secure.primitives import Identity, digest
from fedrec.secure.server import SecureServer

MODEL = digest("model", b"")
CORRUPT = 0.05


@dataclass
class Cost:
    """What one attempt took: seconds of all devices and of the server, bytes of all devices."""

    devices: int
    neighbours: int = 0
    bits: int = 0
    device: dict[str, float] = field(default_factory=dict[str, float])
    server: dict[str, float] = field(default_factory=dict[str, float])
    up: int = 0
    down: int = 0

    def row(self, dropped: float, numbers: int) -> str:
        """Return the line of the table."""
        each, plain = sum(self.device.values()) / self.devices, 4 * numbers
        up, down = self.up / self.devices, self.down / self.devices
        return (
            f"{self.devices:>7,} {dropped:>8.0%} {self.neighbours:>5} {self.bits:>5} {each:>9.3f} "
            f"{sum(self.server.values()):>9.2f} {up:>9,.0f} {down:>9,.0f} {up / plain:>6.2f} "
            f"{(up + down + plain) / (2 * plain):>6.2f}"
        )


def terms_of(devices: int, numbers: int, dropped: float) -> SecureTerms:
    """Return the terms of a round over everybody at epsilon 8, and a corrupt share of 5 %."""
    plan = TrainingPlan(devices, 100 * devices, 1.0, rounds=1, trains=True)
    mechanism = UserSecure(dropped=dropped, corrupt=CORRUPT).calibrated(plan, math.inf)
    bits = mechanism.modulus_bits(plan, mechanism.clip_grid({"all": (numbers,)}))
    return SecureTerms("run", 1, 1, "none", numbers, bits, mechanism.least_devices, devices, CORRUPT, dropped)


def measure(devices: int, numbers: int, dropped: float) -> Cost:
    """Play one attempt and return what it cost; a wrong sum is an error."""
    terms, random = terms_of(devices, numbers, dropped), np.random.default_rng(0)
    server, cost = SecureServer(terms, MODEL), Cost(devices, bits=terms.bits)
    parties = [SecureDevice(terms, Identity.new()) for _ in range(devices)]
    states = [DeviceState() for _ in range(devices)]
    gone = set(random.permutation(devices)[: math.floor(dropped * devices)].tolist())
    plain, asked = np.zeros(numbers, np.int64), [(device, b"") for device in range(devices)]
    for phase in Phase:
        began, spent = process_time(), 0.0
        for device, request in asked if phase == Phase.KEYS else server.requests():
            if phase >= Phase.VECTOR and device in gone:
                continue
            vector = np.full(numbers, device - devices // 2)
            start = process_time()
            seen = MODEL if phase == Phase.VECTOR else b""
            state = parties[device].answer(states[device], phase, request, seen, lambda vector=vector: vector)
            spent += process_time() - start
            server.receive(device, state.reply)
            cost.up, cost.down = cost.up + len(state.reply), cost.down + len(request)
            plain += vector if phase == Phase.VECTOR else 0
            states[device] = state
        server.close()
        if phase == Phase.UNMASK and not np.array_equal(server.total(), plain):
            raise FedrecError("the secure sum is not the plain one")
        cost.device[phase.name] = spent
        cost.server[phase.name] = process_time() - began - spent
    cost.neighbours = server.neighbours
    return cost


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line for each cohort and share of drop-outs, and below it the seconds of each message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--numbers", type=int, default=118_592)
    parser.add_argument("--dropped", type=float, nargs="+", default=[0.05, 0.3])
    args = parser.parse_args(arguments)
    print("devices  dropped     k  bits  s/device  s server   B up    B down  up/f32  both/f32")
    for devices in args.devices:
        for dropped in args.dropped:
            cost = measure(devices, args.numbers, dropped)
            print(cost.row(dropped, args.numbers), flush=True)
            each = {name: f"{1000 * seconds / devices:.1f}" for name, seconds in cost.device.items()}
            print(f"        ms a device: {each}; s server: { {n: round(s, 2) for n, s in cost.server.items()} }")


if __name__ == "__main__":
    main()
