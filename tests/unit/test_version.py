"""The version is said in two places, because others read it there, and is that of what is installed."""

import tomllib
from pathlib import Path

import fedrec

ROOT = Path(__file__).parents[2]


def test_the_version_is_one() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]  # where Flower reads it
    assert stated == fedrec.__version__
    assert f"\nversion: {stated}\n" in (ROOT / "CITATION.cff").read_text()
