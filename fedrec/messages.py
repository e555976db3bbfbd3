"""What a node sends: named arrays summed over devices, in the only wire format, and how a reply is checked.

A `ModelUpdate` is what leaves a node, a `Message` the NumPy arrays and the one JSON header that carry it. A
`SparseArray` is mostly zero: what one device adds to a matrix over items, held by its cells.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedrec.errors import FedrecError

PROTOCOL = 1
HEADER = "header/json"
ECHO = ("protocol", "run", "round", "hash")  # what a reply repeats of its request
NAMES_BYTES, HEADER_BYTES = 1 << 16, 1 << 16  # of a stranger's reply: what names its arrays, and its header
LINE = 200  # characters of a line that names a device and what was wrong with its reply
TOO_LARGE = "the reply is larger than what was asked for"
DECLINED = "the device declined: its own policy said no"


class SparseArray(NDArrayOperatorsMixin):
    """Stands for the array of `shape` that holds `values` at the flat positions `index` (each once), else zeros.

    Squares, multiples and sums stay sparse; everything else that numpy can do with it is done on the dense array, so
    that code that does not know of it is slower and never wrong.
    """

    def __init__(self, index: NDArray[np.int64], values: NDArray[Any], shape: tuple[int, ...]) -> None:
        self.index, self.values, self.shape = index, values, shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        return self.values.dtype

    @property
    def size(self) -> int:
        """How many values the dense array has."""
        return int(np.prod(self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        dense = np.zeros(self.shape, dtype or self.dtype)
        dense.reshape(-1)[self.index] = self.values
        return dense

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        scaled = ufunc is np.multiply and method == "__call__" and np.ndim(inputs[1]) == 0 and inputs[0] is self
        if (ufunc is np.square or scaled) and "out" not in options:
            values = ufunc(self.values, *inputs[1:], **options)
            return SparseArray(self.index, values, self.shape)
        options.pop("out", None)
        dense = [np.asarray(value) if isinstance(value, SparseArray) else value for value in inputs]
        return getattr(ufunc, method)(*dense, **options)

    def astype(self, dtype: Any) -> "SparseArray":
        """Return the same with values of another type."""
        return SparseArray(self.index, self.values.astype(dtype), self.shape)

    def copy(self) -> NDArray[Any]:
        """Return the dense array."""
        return np.array(self)

    def sum(self, *arguments: Any, **options: Any) -> Any:
        """Return the sum of all values."""
        return self.values.sum()

    def add_to(self, total: NDArray[Any]) -> None:
        """Add the values to a dense array of the same shape."""
        total.reshape(-1)[self.index] += self.values


def cells(index: NDArray[np.int64], values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the sparse array under the type of the dense one that it can be used for everywhere."""
    return cast(NDArray[np.float32], SparseArray(index, values, shape))


Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ModelUpdate:
    """Arrays summed over `count` devices."""

    arrays: Arrays
    count: int

    def norm(self) -> float:
        """Return the L2 norm over all arrays together, in double precision so that 1e30 does not overflow."""
        return float(np.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in self.arrays.values())))

    def scaled(self, factor: float) -> "ModelUpdate":
        """Return the update times a factor."""
        return ModelUpdate({k: (a * np.float64(factor)).astype(np.float32) for k, a in self.arrays.items()}, self.count)

    def finite(self) -> bool:
        """Say whether every value is a number."""
        arrays = cast("Iterable[Any]", self.arrays.values())
        return all(bool(np.isfinite(a.values if isinstance(a, SparseArray) else a).all()) for a in arrays)


class UpdateSum:
    """Updates added one by one in float64, so that no more than one of them is held at a time."""

    def __init__(self, like: Mapping[str, NDArray[np.float32]] | None = None) -> None:
        """Start from zeros shaped as `like`, or from nothing: then the first update gives names and shapes."""
        self._sums = {name: np.zeros(array.shape, np.float64) for name, array in (like or {}).items()}
        self._open, self._count = like is None, 0
        self._double = set[str]()

    def add(self, update: ModelUpdate) -> None:
        """Add an update of the same names and shapes."""
        if self._open:
            self._sums = {name: np.zeros(array.shape, np.float64) for name, array in update.arrays.items()}
            self._open = False
        self._count += update.count
        for name, array in update.arrays.items():
            if array.dtype == np.float64:
                self._double.add(name)
            if isinstance(array, SparseArray):
                array.add_to(self._sums[name])
            else:
                self._sums[name] += array

    def update(self) -> ModelUpdate:
        """Return the sum: in single precision, but for arrays that came in double."""
        kinds: dict[str, type[Any]] = {n: np.float64 if n in self._double else np.float32 for n in self._sums}
        return ModelUpdate({name: array.astype(kinds[name]) for name, array in self._sums.items()}, self._count)


def total(updates: Iterable[ModelUpdate], like: Mapping[str, NDArray[np.float32]]) -> ModelUpdate:
    """Return the sum in the given order, accumulated in float64; zeros shaped as `like` where there is no update."""
    summed = UpdateSum(like)
    for update in updates:
        summed.add(update)
    return summed.update()


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
    validate_header(reply, asked, exact)
    if reply.arrays.keys() != shapes.keys():
        raise RejectedReplyError("array names are not those of the model")
    for name, array in reply.arrays.items():
        if array.dtype != np.float32 and not (name in float64_arrays and array.dtype == np.float64):
            raise RejectedReplyError(f"{name} is not float32")
        if array.shape != shapes[name]:
            raise RejectedReplyError(f"{name} has another shape than the model's")
        if not np.isfinite(array).all():
            raise RejectedReplyError(f"{name} is not finite")


def validate_header(reply: Message, asked: Mapping[str, Any], exact: bool = True, beside: tuple[str, ...] = ()) -> None:
    """Raise `RejectedReplyError` unless the header answers this request; `beside` are keys that it has besides."""
    header = reply.header
    check_answered(reply)
    if not exact and header.keys() != {*ECHO, "count", *beside}:
        raise RejectedReplyError("the header has other keys than a reply's")
    for key in ECHO:
        if header.get(key) != asked[key] or (not exact and type(header[key]) is not type(asked[key])):
            raise RejectedReplyError(f"{key} is not that of the request")
    count, most = header.get("count"), len(asked["devices"])
    if type(count) is not int or not (0 if exact else most) <= count <= most:
        raise RejectedReplyError("count is not a number of the devices asked")
    check_exact(header)


def check_answered(reply: Message) -> None:
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
    return "".join(c if c.isprintable() else " " for c in str(text)[:LINE])


def check_exact(header: Mapping[str, Any]) -> None:
    """Raise `RejectedReplyError` unless a simulation's exact loss, if there is one, is a finite sum over a count."""
    loss, examples = header.get("loss"), header.get("examples")
    if loss is None and examples is None:
        return
    whole = type(examples) is int and 0 <= examples < 1 << 53
    if not whole or not isinstance(loss, int | float) or not abs(loss) < 1e300:
        raise RejectedReplyError("loss is not a finite sum over a number of examples")
