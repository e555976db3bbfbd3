"""Archives, downloads from a local server, checksums, and what `fedrec data` prints."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedrec.cli.data import check, describe, get
from fedrec.data.datasets.csv import Delimited
from fedrec.data.datasets.movielens import SHIPPED, MovieLens100K, MovieLensLatestSmall
from fedrec.data.datasets.synthetic import Synthetic
from fedrec.data.download import cache, fetch, open_files, verify
from fedrec.errors import FedrecError
from tests.support.data_layouts import write_ml_100k


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = write_ml_100k(tmp_path / "unpacked")
    (tmp_path / "site").mkdir()
    path = tmp_path / "site" / "ml-100k.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.iterdir()):
            packed.write(file, f"ml-100k/{file.name}")
    return path


@pytest.fixture
def site(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(archive.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def checksum(path: Path, kind: str = "sha256") -> str:
    return f"{kind}:{hashlib.new(kind, path.read_bytes()).hexdigest()}"


def test_download_once_then_from_the_cache(site: str, archive: Path) -> None:
    source = MovieLens100K(url=f"{site}/ml-100k.zip", checksum=checksum(archive))
    assert len(source.load().interactions) == 5
    assert [file.name for file in cache().iterdir()] == ["ml-100k.zip"]
    archive.unlink()
    assert len(source.load().interactions) == 5
    assert get(source) == [str(cache() / "ml-100k.zip")]


def test_download_against_the_pinned_checksum_leaves_nothing_behind(site: str) -> None:
    with pytest.raises(FedrecError, match=r"ml-100k\.zip: downloaded bytes: wrong checksum sha256:.*50d2a982c66986"):
        MovieLens100K(url=f"{site}/ml-100k.zip").load()
    assert list(cache().iterdir()) == []


def test_md5_is_accepted_and_other_kinds_are_not(site: str, archive: Path) -> None:
    assert fetch(f"{site}/ml-100k.zip", checksum(archive, "md5"), "a.zip").is_file()
    with pytest.raises(FedrecError, match=r"checksum 'sha1:00': sha256:<hex> or md5:<hex> is expected"):
        verify(archive, "sha1:00")
    with pytest.raises(FedrecError, match=r"b\.zip: no checksum of it is known"):
        fetch(f"{site}/ml-100k.zip", None, "b.zip")


def test_missing_page_and_no_network_and_strange_address(site: str) -> None:
    with pytest.raises(FedrecError, match=r"no\.zip: the server answers 404.*dataset\.path="):
        fetch(f"{site}/no.zip", "md5:00", "no.zip")
    with pytest.raises(FedrecError, match=r"http://127\.0\.0\.1:9/x\.zip: can't be reached.*dataset\.path="):
        fetch("http://127.0.0.1:9/x.zip", "md5:00", "x.zip")
    with pytest.raises(FedrecError, match="an http or https address is expected"):
        fetch("file:///etc/hostname", "md5:00", "x.zip")


def test_cached_file_that_was_damaged_is_refused(site: str, archive: Path) -> None:
    source = MovieLens100K(url=f"{site}/ml-100k.zip", checksum=checksum(archive))
    path = source.get()
    path.write_bytes(b"x")
    with pytest.raises(FedrecError, match=r"data/ml-100k\.zip: wrong checksum.*delete the file"):
        source.load()


def test_user_archive_is_tested_only_where_a_checksum_is_set(archive: Path) -> None:
    assert MovieLens100K(path=str(archive)).load().interactions.users == 2
    assert MovieLens100K(path=str(archive.parent), checksum=checksum(archive)).load().interactions.users == 2
    with pytest.raises(FedrecError, match=r"ml-100k\.zip: wrong checksum"):
        MovieLens100K(path=str(archive), checksum="sha256:00").load()
    with pytest.raises(FedrecError, match=r"unpacked: dataset\.checksum is that of an archive"):
        MovieLens100K(path=str(archive.parent.parent / "unpacked"), checksum="sha256:00").load()


def test_truncated_archive(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(FedrecError, match=r"ml-100k\.zip: truncated or damaged archive.*download it again"):
        MovieLens100K(path=str(archive)).load()


def test_damaged_member(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[60:64] = b"\x00\x00\x00\x00"
    archive.write_bytes(bytes(content))
    with pytest.raises(FedrecError, match=r"ml-100k\.zip: truncated or damaged archive"):
        MovieLens100K(path=str(archive)).load()


def test_paths_that_hold_something_else(tmp_path: Path, archive: Path) -> None:
    for path, message in (
        (tmp_path / "none", "none: no such file or folder"),
        (tmp_path, "holds neither u.data, nor ml-100k/u.data, nor ml-100k.zip"),
    ):
        with pytest.raises(FedrecError, match=message):
            open_files(path, "ml-100k", "u.data")
    with pytest.raises(FedrecError, match=r"ml-100k\.zip: holds no ratings\.dat"):
        open_files(archive, "ml-1m", "ratings.dat")
    with pytest.raises(FedrecError, match=r"ml-100k/u\.info: no such file"):
        open_files(archive, "ml-100k", "u.data").read("u.info")


def test_archive_with_its_files_at_the_root(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as packed:
        packed.writestr("u.data", "1\t2\t3\t4\n")
    assert open_files(tmp_path / "flat.zip", "ml-100k", "u.data").read("u.data") == b"1\t2\t3\t4\n"


def test_list_get_and_check() -> None:
    names = [row[0] for row in describe()]
    assert names[0] == "ml-latest-small"
    assert {"ml-100k", "ml-1m", "hetrec2011-lastfm-2k", "csv", "recbole", "synthetic"} <= set(names)
    assert get(MovieLensLatestSmall())[0].startswith(str(SHIPPED))
    assert "nothing to get" in get(Synthetic())[0]
    assert get(Delimited(path=__file__)) == [__file__]
    with pytest.raises(FedrecError, match="Delimited reads your own file"):
        get(Delimited())
    lines = check(MovieLensLatestSmall(threshold=4))
    assert lines[0].startswith("ml-latest-small: ")
    assert any(line.startswith("repaired: ratings below the threshold: ") for line in lines)
    assert lines[-1].startswith("population: ml-latest-small-")
    assert "held out:" in "\n".join(check(Synthetic()))
