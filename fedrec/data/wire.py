"""The catalogue on its way to devices that don't have it: public, and the same bytes for everybody."""

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.errors import Refused

Arrays = dict[str, NDArray[Any]]


def encode(catalogue: Catalogue) -> tuple[dict[str, Any], Arrays]:
    """Return (header, arrays) of a catalogue: texts as UTF-8 bytes one behind the other, and where each ends."""
    header = {"feature_names": list(catalogue.feature_names), "origin": catalogue.origin}
    arrays: Arrays = {"features": np.asarray(catalogue.features, np.float32)}
    for name, texts in (("ids", catalogue.ids), ("titles", catalogue.titles)):
        encoded = [str(text).encode() for text in texts]
        arrays[f"{name}_text"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{name}_end"] = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return header, arrays


def decode(header: dict[str, Any], arrays: Arrays) -> Catalogue:
    """Return the catalogue that was encoded; anything else is `Refused`."""
    try:
        ids, titles = (_texts(arrays[f"{name}_text"], arrays[f"{name}_end"]) for name in ("ids", "titles"))
        names = tuple(str(name) for name in header["feature_names"])
        features, origin = np.asarray(arrays["features"], np.float32), str(header["origin"])
    except (KeyError, ValueError, TypeError) as error:
        raise Refused("the server sent something that is not a catalogue") from error
    if not len(ids) == len(titles) == len(features) or features.shape[1:] != (len(names),):
        raise Refused("the server sent a catalogue whose columns do not fit together")
    return Catalogue(ids, titles, features, names, origin)


def digest(catalogue: Catalogue) -> str:
    """Return a name for exactly this catalogue."""
    header, arrays = encode(catalogue)
    hasher = hashlib.sha256(repr(sorted(header.items())).encode())
    for name, array in sorted(arrays.items()):
        hasher.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


def _texts(joined: NDArray[Any], ends: NDArray[Any]) -> NDArray[np.str_]:
    content, places = joined.tobytes(), [0, *ends.tolist()]
    if places != sorted(places) or places[-1] != len(content):
        raise ValueError("ends that are none")
    return np.array([content[a:b].decode() for a, b in pairwise(places)], dtype=np.str_)
