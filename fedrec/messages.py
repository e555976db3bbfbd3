"""The only wire format: named NumPy arrays and one JSON header, and how a reply is checked before it counts."""

import json
import math
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
ECHO = ("protocol", "run", "round", "hash")  # what a reply repeats of its request
NAMES_BYTES, HEADER_BYTES = 1 << 16, 1 << 16  # of a stranger's reply: what names its arrays, and its header
DECLINED = "the device declined: its own policy said no"


class RejectedReplyError(FedrecError):
    """A reply that does not count; its text holds a reason and no data of the sender."""


class AbsentReplyError(RejectedReplyError):
    """A reply that does not count and is no fault: the device declined, failed, came late or went away."""


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


@dataclass(frozen=True, slots=True)
class FailedReply(Message):
    """What stands for a reply that could not be had: `header["error"]` says why.

    `unreachable` where the transport itself says that the node or its answer is gone; otherwise the reply was wrong.
    """

    unreachable: bool = False

    @classmethod
    def of(cls, reason: str, unreachable: bool = False) -> "FailedReply":
        """Return the failure for this reason."""
        return cls({"error": reason}, {}, unreachable)


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


def unpack_reply(content: bytes) -> Message:
    """Return the message that a stranger packed; raise `RejectedReplyError` for anything else, before it is believed.

    Names and header are measured before they are parsed; no key comes twice, and the header is bytes.
    """
    if len(content) < 8 or int.from_bytes(content[:8], "little") > NAMES_BYTES:
        raise RejectedReplyError("the bytes are no message")
    try:
        arrays = load(content)
        header = arrays.pop(HEADER)
        if header.dtype != np.uint8 or header.ndim != 1 or header.size > HEADER_BYTES:
            raise RejectedReplyError("the header is no text, or too long")
        found = json.loads(header.tobytes(), object_pairs_hook=_once)
    except RejectedReplyError:
        raise
    except Exception as error:  # of whatever parser: what a stranger sent must not end the run
        raise RejectedReplyError("the bytes are no message") from error
    if not isinstance(found, dict):
        raise RejectedReplyError("the header is no table")
    return Message(cast(dict[str, Any], found), arrays)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise RejectedReplyError("a key of the header comes twice")
    return found


def reply_bytes(shapes: Mapping[str, tuple[int, ...]], float64_arrays: frozenset[str] = frozenset()) -> int:
    """Return how many bytes a reply with arrays of these shapes has at most, packed."""
    values = (math.prod(shape) * (8 if name in float64_arrays else 4) for name, shape in shapes.items())
    return sum(values) + NAMES_BYTES + HEADER_BYTES


def validate_reply(
    reply: Message,
    asked: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    float64_arrays: frozenset[str] = frozenset(),
    exact: bool = True,
) -> None:
    """Raise `RejectedReplyError` unless the reply answers this request with exactly these arrays, all of them finite.

    `asked` is the request's header: round, run and the devices asked for; arrays named in `float64_arrays` may come in
    double precision. Without `exact` (a real device) the reply tells nothing else than that all the devices asked are
    in it: no loss.
    """
    header = reply.header
    _check_answered(reply)
    if not exact and header.keys() != {*ECHO, "count"}:
        raise RejectedReplyError("the header has other keys than a reply's")
    for key in ECHO:
        if header.get(key) != asked[key] or (not exact and type(header[key]) is not type(asked[key])):
            raise RejectedReplyError(f"{key} is not that of the request")
    count, most = header.get("count"), len(asked["devices"])
    if type(count) is not int or not (0 if exact else most) <= count <= most:
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


def _check_answered(reply: Message) -> None:
    """Raise where a reply says that there is none."""
    if isinstance(reply, FailedReply):
        kind = AbsentReplyError if reply.unreachable else RejectedReplyError
        raise kind(sanitize_text(reply.header["error"]))
    if "error" in reply.header:
        raise AbsentReplyError(f"the node reported an error: {sanitize_text(reply.header['error'])}")
    if "declined" in reply.header:
        raise AbsentReplyError(DECLINED)


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
