"""What a server's words may cost a device: sizes, work, names and disk, held to before any work starts."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.device.home import Home, checked_table
from fedrec.errors import FedrecError, OverLimitError, suggest
from fedrec.messages import Message

MIB = 1 << 20
MOST_DEVICES = 10_000_000  # of one population: what a plan takes grows with them
MOST_ROUNDS = 1_000_000
CHANGES = ("ask", "accept")
ORIGINS = ("item file", "interactions")
PLAIN = re.compile(r"[ -~]+")  # printable ASCII
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """[limits] of policy.toml. `seconds` and `memory_mib` bound the training of one round, each request's work alone.

    `catalogue_changes` says what becomes of a catalogue that is not the one taken before: "ask" keeps the old one until
    this device's person accepts the new one, "accept" takes one of at least as many items, between runs.
    """

    catalogue_mib: float = 64.0
    catalogue_changes: str = "ask"
    items: int = 1_000_000
    text_characters: int = 1_000  # of an item's id or title, and of the name of a feature or an array
    model_numbers: int = 100_000_000
    document_kib: float = 256.0
    epochs: int = 100
    negatives: int = 10_000
    steps: int = 10_000
    seconds: float = 600.0
    memory_mib: float = 2_048.0
    name_characters: int = 64
    refusals: int = 100
    disk_mib: float = 1_024.0

    def __post_init__(self) -> None:
        if self.catalogue_changes not in CHANGES:
            raise FedrecError(
                f"limits.catalogue_changes={self.catalogue_changes} does not exist."
                f"{suggest(str(self.catalogue_changes), CHANGES)}"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            number = not isinstance(value, bool) and isinstance(value, int | float)
            if field.name != "catalogue_changes" and not (number and math.isfinite(value) and value > 0):
                raise FedrecError(f"limits.{field.name}={value}: a number above 0 is expected")

    @property
    def most_request_bytes(self) -> int:
        """The longest message that could be within these limits: a catalogue, or a model with its experiment."""
        return int(max(self.catalogue_mib * MIB, 4 * self.model_numbers) + self.document_kib * 1024) + MIB

    @classmethod
    def of(cls, home: Home) -> "DeviceLimits":
        """Return what policy.toml says; what it leaves out is as above, and every mistake is named."""
        where = f"{home.policy}: limits"
        try:
            return cast(DeviceLimits, checked_table(cls, home.table("limits"), where))
        except FedrecError as error:
            raise FedrecError(str(error) if str(error).startswith(where) else f"{home.policy}: {error}") from error

    def check(self, name: str, found: float, what: str) -> None:
        """Raise `OverLimitError`, naming the line that would allow it, where `found` is above the limit of a name."""
        most = float(getattr(self, name))
        if not found <= most:
            raise OverLimitError(f"{what} {found:,.10g}; you allow at most {most:,.10g} ([limits] {name})")


def check_train(limits: DeviceLimits, request: Message, events: int) -> None:
    """Raise `OverLimitError` where a train or evaluate request names, brings or asks for more than the limits allow.

    `events` are the interactions that this device keeps: with the batch, they say how many steps an epoch has.
    """
    header = request.header
    check_names(limits, header)
    number, devices = header.get("round"), header.get("devices")
    least = int(header.get("kind") == "train")
    if type(number) is not int or not least <= number <= MOST_ROUNDS:
        _refuse(f"it asks for round {_shown(number)}: {least} to {MOST_ROUNDS:,} expected")
    rows = cast(list[Any], devices) if isinstance(devices, list) else []
    if len(rows) != 1 or type(rows[0]) is not int or not 0 <= rows[0] < MOST_DEVICES:
        _refuse("it does not ask for one device")
    if header.get("part") not in ("train", "refit", "test", "validation"):
        _refuse(f"part={_shown(header.get('part'))} does not exist")
    _check_announced(header.get("privacy", {}))
    check_work(limits, read_document(limits, header), events)
    check_arrays(limits, request)


def check_names(limits: DeviceLimits, header: Mapping[str, Any]) -> None:
    """Raise `OverLimitError` unless the run's name is short and plain, and the experiment's hash is one."""
    run, digest = header.get("run"), header.get("hash")
    if not isinstance(run, str) or not PLAIN.fullmatch(run) or len(run) > limits.name_characters:
        most = limits.name_characters
        _refuse(f"the run's name is {_shown(run)}; you allow {most:g} plain characters ([limits] name_characters)")
    if not isinstance(digest, str) or not HASH.fullmatch(digest):
        _refuse("its hash is none")


def read_document(limits: DeviceLimits, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's experiment; one that is too long, no JSON table, or holds NaN or infinity, is refused."""
    text = header.get("experiment")
    if not isinstance(text, str):
        _refuse("it names no experiment")
    limits.check("document_kib", len(text.encode(errors="replace")) / 1024, "the KiB of its experiment are")
    try:
        found = json.loads(text, parse_constant=lambda name: _refuse(f"the experiment holds {name}"))
    except OverLimitError:
        raise
    except (ValueError, RecursionError) as error:
        raise OverLimitError(f"the experiment can't be understood ({type(error).__name__})") from error
    if not isinstance(found, dict):
        _refuse("the experiment is no table")
    for value in _numbers(found):
        if not math.isfinite(value):
            _refuse("the experiment holds a number that is not finite")
    return cast(dict[str, Any], found)


def check_work(limits: DeviceLimits, document: Mapping[str, Any], events: int) -> None:
    """Raise `OverLimitError` where an experiment asks for more epochs, negatives or steps than the limits allow."""
    algorithm, privacy = _table(document, "algorithm"), _table(document, "privacy")
    if _amount(document, "rounds") > MOST_ROUNDS:
        _refuse(f"its rounds are {_shown(document.get('rounds'))}: at most {MOST_ROUNDS:,} expected")
    epochs, batch = _amount(algorithm, "epochs"), max(_amount(algorithm, "batch_size"), 1.0)
    limits.check("epochs", epochs, "its epochs are")
    limits.check("negatives", _amount(algorithm, "negatives"), "its negatives for each item are")
    steps = max(epochs * math.ceil(events / batch), _amount(privacy, "local_steps"))
    limits.check("steps", steps, "the steps of one round are")


def check_arrays(limits: DeviceLimits, request: Message) -> None:
    """Raise `OverLimitError` where a model has too many numbers, or one that is not finite."""
    limits.check("model_numbers", sum(array.size for array in request.arrays.values()), "the numbers of its model are")
    for name, array in request.arrays.items():
        limits.check("text_characters", len(name), "the characters of a name in its model are")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            _refuse(f"the model's {_shown(name)} holds something that is no finite number")


def check_catalogue_bytes(limits: DeviceLimits, header: Any, request: Message) -> None:
    """Raise `OverLimitError` where a catalogue is larger than the limits allow, before it is taken apart."""
    check_names(limits, request.header)
    size = len(json.dumps(header, default=str)) + sum(array.nbytes for array in request.arrays.values())
    limits.check("catalogue_mib", size / MIB, "the MiB of its catalogue are")
    ends = request.arrays.get("ids_end")
    limits.check("items", 0 if ends is None else ends.size, "the items of its catalogue are")


def check_catalogue(limits: DeviceLimits, catalogue: Catalogue) -> None:
    """Raise `OverLimitError` unless a catalogue has items, each once, of short texts and finite features."""
    if not len(catalogue):
        _refuse("its catalogue is empty")
    if catalogue.origin not in ORIGINS:
        _refuse(f"its catalogue comes from {_shown(catalogue.origin)}; {' or '.join(ORIGINS)} expected")
    texts = (*catalogue.ids.tolist(), *catalogue.titles.tolist(), *catalogue.feature_names)
    limits.check("text_characters", max(map(len, texts)), "the characters of a text in its catalogue are")
    if len(set(catalogue.ids.tolist())) < len(catalogue):
        _refuse("an item stands in its catalogue twice")
    if not np.isfinite(catalogue.features).all():
        _refuse("its catalogue has a feature that is no finite number")


def check_disk(limits: DeviceLimits, folder: Path, more_bytes: int = 0) -> None:
    """Raise `OverLimitError` where the device's folder, with `more_bytes`, takes more of the disk than the limit."""
    used = sum(size for size in _sizes(folder)) + more_bytes
    limits.check("disk_mib", round(used / MIB, 1), f"with it, the MiB of {folder} would be")


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                yield path.stat().st_size
        except OSError:  # gone meanwhile: a journal, a log that was turned
            continue


def _check_announced(params: Any) -> None:
    if not isinstance(params, dict) or not cast(dict[Any, Any], params).keys() <= {"clip"}:
        _refuse("it announces something else than the clip of the round")


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return cast(Mapping[str, Any], found) if isinstance(found, dict) else _refuse(f"the experiment has no {name}")


def _amount(node: Mapping[str, Any], key: str) -> float:
    """Return a number of a document, 0 where it has none; whether it may be what it is, is for its class to say."""
    value = node.get(key)
    try:
        return float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:
        return math.inf


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for part in cast(dict[str, Any], value).values():
            yield from _numbers(part)
    elif isinstance(value, list):
        for part in cast(list[Any], value):
            yield from _numbers(part)
    elif isinstance(value, float):
        yield value


def _shown(value: Any) -> str:
    text = "".join(letter if PLAIN.fullmatch(letter) else "?" for letter in str(value)[:41])
    return f"{text[:40]}..." if len(text) > 40 else text


def _refuse(reason: str) -> NoReturn:
    raise OverLimitError(reason)
