"""Changes at random of something valid, as a hostile sender would try them: bytes, JSON, arrays, Flower's objects."""

import copy
import random
from typing import Any

import numpy as np

from tests.support.hostile_replies import Object

NUMBERS = (0, -1, 1, 2, 255, 256, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64, 10**400, 0.5, 1e300, -1e300, 5e-324)
MOST_OBJECTS = 5000  # of one reply: a tree of more is what the sender chokes on
WORDS = ("", "\0", "\x1b[31m", "../../etc/passwd", "x" * 70_000, "\ud800", "nan", "os.system", "full_hr@10", "fedrec")
VALUES: tuple[Any, ...] = (None, True, False, float("nan"), float("inf"), [], {}, [[]], [[[0]]], *NUMBERS, *WORDS)


def mutate_bytes(draw: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few places flipped, cut out, doubled, or overwritten by a length that is none."""
    content = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        place = draw.randrange(len(content) + 1)
        match draw.randrange(6):
            case 0 if place < len(content):
                content[place] ^= 1 << draw.randrange(8)
            case 1:
                del content[place : place + draw.choice((1, 8, 1000))]
            case 2:
                content[place:place] = content[place : place + draw.choice((1, 8, 64, 1000))]
            case 3:
                content[place:place] = draw.randbytes(draw.choice((1, 8, 64)))
            case 4:
                length = draw.choice((0, 1, len(content), 2**32, 2**63, 2**64 - 1))
                place = draw.choice((0, place))
                content[place : place + 8] = length.to_bytes(8, "little")
            case _:
                del content[place:]
    return bytes(content)


def mutate_json(draw: random.Random, value: Any) -> Any:
    """Return a JSON value with one part exchanged, left out, added or moved."""
    found = copy.deepcopy(value)
    holders = [holder for holder in _holders(found) if holder]
    if not holders:
        return draw.choice(VALUES)
    holder = draw.choice(holders)
    key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    match draw.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice((*WORDS, key, "_target_"))] = draw.choice(VALUES)
        case 2:
            other = draw.choice(holders)
            holder[key] = copy.deepcopy(draw.choice(list(other.values()) if isinstance(other, dict) else other))
        case 3 if isinstance(holder[key], (int, float)):
            holder[key] = draw.choice((-holder[key], holder[key] + 1, str(holder[key]), [holder[key]]))
        case _:
            holder[key] = draw.choice(VALUES)
    return found


def _holders(value: Any) -> list[Any]:
    if not isinstance(value, (dict, list)):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(holder for one in inner for holder in _holders(one))]


def mutate_array(draw: random.Random, array: np.ndarray) -> np.ndarray:
    """Return an array with another shape, type, length or value."""
    found = array.copy()
    match draw.randrange(5):
        case 0:
            return found.astype(draw.choice((np.float64, np.int64, np.uint8, np.float16, np.bool_)))
        case 1:
            return found.reshape(draw.choice(((-1,), (1, *found.shape), (*found.shape, 1))))
        case 2:
            return found[: draw.randrange(len(found) + 1)] if found.ndim else found
        case 3:
            return np.concatenate([found, found]) if found.ndim else found
        case _:
            place = draw.randrange(found.size) if found.size else 0
            if found.size:
                wild = np.array(draw.choice((0, -1, 255, 1e38, np.inf, np.nan)))
                with np.errstate(all="ignore"):
                    found.reshape(-1)[place] = wild.astype(found.dtype)
            return found


def mutate_object(draw: random.Random, objects: list[Object]) -> None:
    """Change one object of a chain in place."""
    one = draw.choice(objects)
    match draw.randrange(7):
        case 0:
            one.kind = draw.choice(("Message", "RecordDict", "ArrayRecord", "Array", "ArrayChunk", "ConfigRecord", ""))
        case 1:
            one.head_children = [draw.choice((*WORDS[:4], "a" * 64, *(child.name for child in one.children)))]
        case 2:
            times = draw.choice((0, 2, 3, 400))
            if len(objects[0].all()) * times <= MOST_OBJECTS:
                one.children = one.children * times
        case 3 if one is not objects[-1]:
            one.children = [*one.children, objects[-1]]
        case 4:
            one.uploaded = False
        case _:
            body = one.body
            seed = draw.random()
            one.body = lambda names: mutate_bytes(random.Random(seed), body(names))
