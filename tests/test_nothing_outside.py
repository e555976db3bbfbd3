"""Nothing in the repository refers to a file outside of it."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile("|".join((r"\bno" + r"tes/(?!json)", "DESI" + r"GN\.md", r"\.\./sha" + "red", "/wo" + "rk/")))
LISTED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
FILES = [name for name in LISTED.splitlines() if not name.startswith(".ci/")]  # CI looks for real data beside itself


@pytest.mark.skipif(not FILES, reason="not a checkout")
def test_nothing_refers_to_a_file_outside_the_repository() -> None:
    texts = {name: (ROOT / name).read_text(errors="replace") for name in FILES if (ROOT / name).is_file()}
    assert not {name: found[0] for name, text in texts.items() if (found := OUTSIDE.search(text))}


@pytest.mark.parametrize("text", ["no" + "tes/privacy.md I6", "see DESI" + "GN.md", "../sha" + "red/data"])
def test_it_would_be_noticed(text: str) -> None:
    assert OUTSIDE.search(text) and not OUTSIDE.search("notes/json and invariant I6")
