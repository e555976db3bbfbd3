"""What was read from large files, kept as flat arrays that are mapped: the next start reads none of the file's rows.

An entry is known by the bytes of the files, the settings that they are read by, and the code that reads them. It takes
its name when it is complete. It holds what the files hold, in a folder that only its user may open.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.data import catalogue as catalogues
from fedrec.data.clock import Clock
from fedrec.data.dataset import Dataset
from fedrec.data.facts import Facts, Finding, Ratings
from fedrec.data.interactions import DeviceTable, Interactions, open_mmap
from fedrec.data.mapped import Reading
from fedrec.data.ordering import row_blocks
from fedrec.data.sources import SourceOptions
from fedrec.data.stages import tell
from fedrec.errors import FedrecError
from fedrec.paths import cache_dir

LEAST = 1 << 26  # bytes of files from which on it is worth keeping what was read
MOST_GB = "FEDREC_CACHE_GB"
DEFAULT_GB = 20.0
CHUNK = 1 << 22
HEADER = "dataset.json"
TYPES = {
    "user": "<i4", "item": "<i4", "time": "<i8", "value": "<f4", "start": "<i8", "validation_from": "<i8",
    "test_from": "<i8", "user_text": "|u1", "user_end": "<i8", "features": "<f4", "ids_text": "|u1", "ids_end": "<i8",
    "titles_text": "|u1", "titles_end": "<i8",
}  # fmt: skip
ROWS = ("user", "item", "time", "value")


@dataclass(frozen=True, slots=True)
class Entry:
    """One data set that is kept: where, what it is called, how many interactions, its bytes, when it was last used."""

    folder: Path
    name: str
    interactions: int
    size: int
    used: float


def through_cache(source: SourceOptions, files: Sequence[Path], load: Callable[[], Dataset]) -> Dataset:
    """Return what `load` makes of files, from the cache where the same bytes were read by the same settings before."""
    if sum(file.stat().st_size for file in files) < LEAST or not largest_gb():
        return load()
    folder = cache_dir() / "datasets" / key_of(source, files)
    if (folder / HEADER).exists():
        try:
            return open_entry(folder)
        except (FedrecError, OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(folder, ignore_errors=True)  # damaged: what it was made of is still there
    dataset = load()
    size = sum(array.nbytes for _, array in _arrays(dataset))
    if not _is_flat(dataset) or size > largest_gb() * 2**30:
        return dataset
    try:
        write_entry(folder, dataset)
        evict(keep=folder)
        return open_entry(folder)
    except OSError:  # no room, or no leave to write: it is only a cache
        return dataset


def largest_gb() -> float:
    """Return how many gigabytes the cache may take: FEDREC_CACHE_GB, 0 for none at all."""
    text = os.environ.get(MOST_GB, "")
    try:
        found = float(text) if text else DEFAULT_GB
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise FedrecError(f"{MOST_GB}={text}: a number of gigabytes is expected, 0 for no cache")
    return found


def key_of(source: SourceOptions, files: Sequence[Path]) -> str:
    """Return the name of an entry; where the files lie does not count, what they are called does."""
    settings = {field.name: getattr(source, field.name) for field in fields(source)}
    settings["path"] = Path(str(source.path)).name
    if isinstance(settings.get("items"), Mapping):
        settings["items"] = {key: value for key, value in settings["items"].items() if key != "path"}
    digest = hashlib.sha256(_code())
    digest.update(f"{type(source).__name__} {json.dumps(settings, sort_keys=True, default=str)}".encode())
    root = os.path.commonpath([file.absolute().parent for file in files])
    done, total = 0, sum(file.stat().st_size for file in files)
    for file in files:
        digest.update(f"\n{os.path.relpath(file, root)} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while content := stream.read(CHUNK):
                digest.update(content)
                tell("looking whether it was read before", done := done + len(content), total)
    return digest.hexdigest()[:32]


def _code() -> bytes:
    room = Path(__file__).parent
    return b"".join(path.read_bytes() for path in sorted(room.rglob("*.py")))


def write_entry(folder: Path, dataset: Dataset) -> None:
    """Write a data set into a folder that takes its name when it is complete and on the disk."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir(mode=0o700, parents=True)
    try:
        header, arrays, constants = _document(dataset), dict[str, int](), dict[str, float]()
        for done, (name, array) in enumerate(_arrays(dataset), 1):
            if name in ROWS and len(array) and (array[:1] == array).all():
                constants[name] = float(array[0])
            else:
                _write(part / name, array.astype(TYPES[name], copy=False))
            arrays[name] = len(array)
            tell("keeping what was read", done, len(TYPES))
        header |= {"arrays": arrays, "constants": constants}
        _write(part / HEADER, np.frombuffer(json.dumps(header).encode(), np.uint8))
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(path: Path, array: NDArray[Any]) -> None:
    with path.open("wb") as file:
        for block in row_blocks(len(array)):
            np.ascontiguousarray(array[block]).tofile(file)
        file.flush()
        os.fsync(file.fileno())


def _arrays(dataset: Dataset) -> Iterator[tuple[str, NDArray[Any]]]:
    table, devices = dataset.interactions, dataset.devices
    yield from ((name, getattr(table, name)) for name in ROWS)
    yield from ((name, getattr(devices, name)) for name in ("start", "validation_from", "test_from"))
    _, items = catalogues.encode(dataset.catalogue)
    yield "user_text", (encoded := catalogues.encode_texts(table.user_ids))[0]
    yield "user_end", encoded[1]
    yield "features", items["features"].ravel()
    yield from ((name, array) for name, array in items.items() if name != "features")


def _is_flat(dataset: Dataset) -> bool:
    """Say whether a data set is but its table: devices hold the same rows in the same order, and nothing else."""
    devices, table = dataset.devices, dataset.interactions
    return devices.item is table.item and devices.candidates is None and not len(dataset.links)


def _document(dataset: Dataset) -> dict[str, Any]:
    header, _ = catalogues.encode(dataset.catalogue)
    return {
        "name": dataset.name,
        "population": dataset.population,
        "split": dataset.split,
        "repairs": dataset.repairs,
        "clock": asdict(dataset.clock),
        "facts": None if dataset.facts is None else asdict(dataset.facts),
        "findings": [asdict(one) for one in dataset.findings],
        "reading": None if dataset.reading is None else asdict(dataset.reading),
        "catalogue": header,
        "repeats": dataset.devices.repeats,
    }


def open_entry(folder: Path) -> Dataset:
    """Return a data set whose arrays are mapped; an incomplete entry is `FedrecError`."""
    header = json.loads((folder / HEADER).read_text())
    arrays = {name: _mapped(folder, name, header) for name in TYPES}
    os.utime(folder)
    names = tuple(header["catalogue"]["feature_names"])
    arrays["features"] = np.array(arrays["features"]).reshape(-1, len(names))
    items = catalogues.decode(header["catalogue"], arrays)
    row = {name: arrays[name] for name in ROWS}
    users = catalogues.decode_texts(arrays["user_text"], arrays["user_end"])
    table = Interactions(**row, user_ids=users, items=len(items))
    start, validation_from, test_from = (arrays[name] for name in ("start", "validation_from", "test_from"))
    repeats = bool(header["repeats"])
    reading, facts = header["reading"], header["facts"]
    return Dataset(
        name=header["name"],
        population=header["population"],
        interactions=table,
        catalogue=items,
        devices=DeviceTable(start, validation_from, test_from, table.item, table.value, len(items), repeats=repeats),
        split=header["split"],
        repairs=tuple((what, count) for what, count in header["repairs"]),
        clock=Clock(**header["clock"]),
        facts=None if facts is None else _facts(facts),
        findings=tuple(Finding(**one) for one in header["findings"]),
        reading=None if reading is None else Reading(reading["form"], reading["columns"], tuple(reading["unread"])),
    )


def _facts(document: dict[str, Any]) -> Facts:
    ratings = document["ratings"]
    seen = None if ratings is None else Ratings(**{**ratings, **_tuples(ratings, "scale", "counts")})
    plain: dict[str, Any] = {**document, **_tuples(document, "times", "histories", "disliked")}
    return replace(Facts(**plain), ratings=seen)


def _tuples(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: None if document[name] is None else tuple(document[name]) for name in names}


def _mapped(folder: Path, name: str, header: Mapping[str, Any]) -> NDArray[Any]:
    kind, length = np.dtype(TYPES[name]), int(header["arrays"][name])
    if name in header["constants"]:
        return np.broadcast_to(np.array(header["constants"][name], kind), (length,))
    if (folder / name).stat().st_size != length * kind.itemsize:
        raise FedrecError(f"{folder / name}: truncated")
    return open_mmap(folder / name, TYPES[name])


def entries() -> list[Entry]:
    """Return what is kept, the one used last at the end."""
    found = list[Entry]()
    for folder in (cache_dir() / "datasets").glob("*"):
        try:
            header = json.loads((folder / HEADER).read_text())
            size = sum(file.stat().st_size for file in folder.iterdir())
            found.append(Entry(folder, header["name"], header["arrays"]["item"], size, folder.stat().st_mtime))
        except (OSError, ValueError, KeyError):
            continue
    return sorted(found, key=lambda entry: entry.used)


def evict(keep: Path) -> None:
    """Take out what was not used for longest until the cache is as small as it has to be."""
    kept = entries()
    over = sum(entry.size for entry in kept) - int(largest_gb() * 2**30)
    for entry in kept:
        if over > 0 and entry.folder != keep:
            shutil.rmtree(entry.folder, ignore_errors=True)
            over -= entry.size


def clear() -> list[Entry]:
    """Take out all of it, also what a crash left half written, and return what it was."""
    gone = entries()
    shutil.rmtree(cache_dir() / "datasets", ignore_errors=True)
    return gone
