"""The only wire format: named NumPy arrays and one JSON header, and how a reply is checked before it counts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedrec.errors import FedrecError

PROTOCOL = 1
HEADER = "header/json"
DECLINED = "the device declined: its own policy said no"


class RejectedReplyError(FedrecError):
    """A reply that does not count; its text holds a reason and no data of the sender."""


@dataclass(frozen=True, slots=True)
class Message:
    """A header that JSON can carry, and named arrays."""

    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])

    def json(self) -> str:
        """Return the header as JSON, keys sorted."""
        return json.dumps(self.header, sort_keys=True)

    @property
    def bytes(self) -> int:
        """How many bytes the message holds, framing aside."""
        return len(self.json()) + sum(array.nbytes for array in self.arrays.values())


def pack(message: Message) -> bytes:
    """Return the message as safetensors bytes, its header among the arrays."""
    header = np.frombuffer(message.json().encode(), np.uint8)
    return save({**{name: np.ascontiguousarray(a) for name, a in message.arrays.items()}, HEADER: header})


def unpack(content: bytes) -> Message:
    """Return the message that was packed; anything else is `RejectedReplyError`, whatever its bytes claim."""
    try:
        arrays = load(content)
        header = json.loads(arrays.pop(HEADER).tobytes())
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RejectedReplyError("the bytes are no message") from error
    if not isinstance(header, dict):
        raise RejectedReplyError("the header is no table")
    return Message(cast(dict[str, Any], header), arrays)


def validate_reply(
    reply: Message,
    asked: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    float64_arrays: frozenset[str] = frozenset(),
) -> None:
    """Raise `RejectedReplyError` unless the reply answers this request with exactly these arrays, all of them finite.

    `asked` is the request's header: round, run and the devices asked for; arrays named in `float64_arrays` may come in
    double precision.
    """
    header = reply.header
    if "error" in header:
        raise RejectedReplyError(f"the node reported an error: {sanitize_text(header['error'])}")
    if "declined" in header:
        raise RejectedReplyError(DECLINED)
    for key in ("protocol", "run", "round", "hash"):
        if header.get(key) != asked[key]:
            raise RejectedReplyError(f"{key} is not that of the request")
    count = header.get("count")
    if type(count) is not int or not 0 <= count <= len(asked["devices"]):
        raise RejectedReplyError("count is not a number of the devices asked")
    if reply.arrays.keys() != shapes.keys():
        raise RejectedReplyError("array names are not those of the model")
    for name, array in reply.arrays.items():
        if array.dtype != np.float32 and not (name in float64_arrays and array.dtype == np.float64):
            raise RejectedReplyError(f"{name} is not float32")
        if array.shape != shapes[name]:
            raise RejectedReplyError(f"{name} has another shape than the model's")
        if not np.isfinite(array).all():
            raise RejectedReplyError(f"{name} is not finite")
    check_exact(header)


def sanitize_text(text: Any) -> str:
    """Return a stranger's text as one short line of printable characters."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:200])


def check_exact(header: Mapping[str, Any]) -> None:
    """Raise `RejectedReplyError` unless a simulation's exact loss, if there is one, is a finite sum over a count."""
    loss, examples = header.get("loss"), header.get("examples")
    if loss is None and examples is None:
        return
    whole = type(examples) is int and 0 <= examples < 1 << 53
    if not whole or not isinstance(loss, int | float) or not abs(loss) < 1e300:
        raise RejectedReplyError("loss is not a finite sum over a number of examples")
