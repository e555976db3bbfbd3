"""A node's side of secure sums in a simulation: every device answers each message with what it alone knows."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.experiment import Experiment
from fedrec.messages import Arrays, Message
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user_secure import UserSecure
from fedrec.secure.attempt import Phase, SecureTerms
from fedrec.secure.device import DeviceState, SecureDevice
from fedrec.secure.primitives import Identity, digest

SIZES, CONTENT = "secure/sizes", "secure/content"  # the arrays that carry each device's bytes

Payloads = dict[int, bytes]
Vector = Callable[[int], NDArray[np.int64]]


def make_terms(experiment: Experiment, plan: TrainingPlan, header: Mapping[str, Any]) -> SecureTerms:
    """Return the terms of a round's sum, of its public plan: server and devices compute them, each by itself."""
    mechanism = experiment.mechanism
    if not isinstance(mechanism, UserSecure):
        raise FedrecError(f"{mechanism.name} makes no secure sums")
    numbers, mechanism = int(header["numbers"]), mechanism.in_round(plan, header["round"])
    grid = mechanism.clip_grid({"all": (numbers,)})
    return SecureTerms(
        run=header["run"],
        round=header["round"],
        attempt=header["attempt"],
        experiment=experiment.hash,
        numbers=numbers,
        bits=mechanism.modulus_bits(plan, grid),
        least=mechanism.least_devices,
        most=mechanism.most_devices(plan),
        corrupt=mechanism.corrupt,
        dropped=mechanism.dropped,
    )


def model_hash(arrays: Arrays) -> bytes:
    """Return the hash of what devices are given to compute with."""
    parts = (
        part.encode() if isinstance(part, str) else part
        for name, array in sorted(arrays.items())
        for part in (name, str(array.dtype), str(array.shape), np.ascontiguousarray(array).tobytes())
    )
    return digest("model", *parts)


def with_payloads(message: Message, payloads: Payloads) -> Message:
    """Return the message with the bytes of each of its devices, in their order."""
    rows = cast(list[int], message.header["devices"])
    sizes = np.array([len(payloads[row]) for row in rows], np.int64)
    content = np.frombuffer(b"".join(payloads[row] for row in rows), np.uint8)
    return Message(message.header, {**message.arrays, SIZES: sizes, CONTENT: content})


def payloads_of(message: Message) -> Payloads:
    """Return the bytes of each of a message's devices."""
    ends = np.cumsum(message.arrays[SIZES])
    content, starts = message.arrays[CONTENT].tobytes(), ends - message.arrays[SIZES]
    rows = cast(list[int], message.header["devices"])
    return {row: content[start:end] for row, start, end in zip(rows, starts, ends, strict=True)}


class SecureFleet:
    """The simulated devices of a node in secure sums: who they are, and what each remembers of this attempt."""

    def __init__(self) -> None:
        self._identities, self._states = dict[int, Identity](), dict[int, DeviceState]()
        self._context = b""

    def answer(self, terms: SecureTerms, phase: Phase, asked: Payloads, broadcast: Arrays, vector: Vector) -> Message:
        """Return what the devices answer; `vector(row)` computes the numbers of one of them.

        One that refuses is left out, and the first reason told: in a simulation they are the experimenter's own.
        """
        if terms.context != self._context:
            self._states, self._context = {}, terms.context
        model, replies, told = model_hash(broadcast) if phase == Phase.VECTOR else b"", Payloads(), ""
        for row, request in asked.items():
            device = SecureDevice(terms, self._identities.setdefault(row, Identity.new()))
            before = self._states.get(row, DeviceState())
            try:
                after = device.answer(before, phase, request, model, lambda row=row: vector(row))
            except RefusedError as reason:
                told = told or str(reason)
                continue
            self._states[row], replies[row] = after, after.reply
        return with_payloads(Message({"devices": list(replies), "refused": told}), replies)
