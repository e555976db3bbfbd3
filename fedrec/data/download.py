"""Downloads from a publisher, once, into a cache, against a pinned checksum."""

import hashlib
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

import platformdirs

from fedrec.errors import FedrecError, nearest

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60


def cache() -> Path:
    """Return the folder of downloads: FEDREC_DATA, or the platform's own for user data."""
    return Path(os.environ.get("FEDREC_DATA") or platformdirs.user_data_dir("fedrec"))


def fetch(url: str, checksum: str | None, name: str) -> Path:
    """Return the file `name` of the cache, downloaded from `url` where it is not there yet.

    Either way it must match `checksum` ("sha256:..." or "md5:..."; None is refused). A download takes its name only
    when it is complete and right, so that a broken one leaves nothing behind.
    """
    if not checksum:
        raise FedrecError(f"{name}: no checksum of it is known: set dataset.checksum=sha256:... or dataset.path")
    target = cache() / name
    if target.is_file():
        verify(target, checksum)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{name}.{os.getpid()}.part")
    try:
        _download(url, part, name)
        _compare(part, checksum, f"{url}: downloaded bytes")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def verify(path: Path, checksum: str) -> None:
    """Refuse a file that does not match "sha256:..." or "md5:..."."""
    _compare(path, checksum, str(path))


def _compare(path: Path, checksum: str, what: str) -> None:
    kind, _, wanted = checksum.partition(":")
    if kind not in ("md5", "sha256") or not wanted:
        raise FedrecError(
            f"checksum '{checksum}': sha256:<hex> or md5:<hex> is expected.{nearest(kind, ['sha256', 'md5'])}"
        )
    # MD5 is what some publishers print: it finds damage, not forgery.
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != wanted.lower():
        message = f"{what}: wrong checksum {kind}:{digest.hexdigest()}; {checksum} is expected"
        raise FedrecError(f"{message}: delete the file and download it again, or set dataset.checksum if you trust it")


def _download(url: str, part: Path, name: str) -> None:
    way_round = f"dataset.path=... names a folder or archive that you already have ({name})"
    if not url.startswith(("http://", "https://")):
        raise FedrecError(f"{url}: an http or https address is expected; {way_round}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, part.open("wb") as file:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
    except urllib.error.HTTPError as error:
        raise FedrecError(f"{url}: the server answers {error.code} {error.reason}; {way_round}") from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise FedrecError(f"{url}: can't be reached ({error}); {way_round}") from error
