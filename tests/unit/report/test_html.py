"""report.html: complete, escaped, and nothing in it asks for anything outside."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.cli.main import main
from fedrec.report.html import described, page, rounds
from fedrec.report.svg import Dot, dots, lines, ticks
from tests.support.tiny import SMALL

VOID = {"meta", "br", "hr", "img", "link", "input"}
ASKS = re.compile(
    r"(src|href|action|data|poster|srcset)\s*=|url\(|@import|<(script|link|img|iframe|object|embed)", re.I
)


class Checked(HTMLParser):
    """Refuses tags that are not closed in order, and collects what a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.said.append(data)


def read(text: str) -> str:
    checked = Checked()
    checked.feed(text)
    checked.close()
    assert checked.open == []
    return " ".join(checked.said)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_STATE", str(folder / "state"))
        main(
            ["simulate", *SMALL, "rounds=3", "name=one", f"output={folder}", "evaluation.baselines=[popularity,local]"]
        )
    return folder / "one"


def test_the_page_holds_verdict_table_card_and_rounds(run: Path) -> None:
    text = (run / "report.html").read_text()
    said, values = read(text), json.loads((run / "metrics.json").read_text())
    assert f"{values['test']['full']['ndcg@10']:.4f}" in said and "a device alone, no federation" in said
    for part in (
        "add-remove",
        "trusted",
        "Privacy card",
        "not protected",
        "excludes selection",
        "epsilon spent so far",
    ):
        assert part in said, part
    assert "validation NDCG@10, full ranking" not in said  # exact, so not in a page that others may read


def test_nothing_in_the_page_asks_for_anything_outside(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert "default-src 'none'" in text and not ASKS.search(re.sub(r"default-src", "", text))
    assert not re.search(r"https?://|//[a-z]", text)


def test_every_picture_is_well_formed(run: Path) -> None:
    pictures = re.findall(r"<svg.*?</svg>", (run / "report.html").read_text(), re.S)
    assert len(pictures) == 2
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        box = [float(number) for number in root.attrib["viewBox"].split()]
        for circle in root.iter("circle"):
            assert 0 <= float(circle.attrib["cx"]) <= box[2] and 0 <= float(circle.attrib["cy"]) <= box[3]


def test_the_page_can_be_written_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    main(["report", str(run)])
    assert str(run.resolve() / "report.html") in capsys.readouterr().out
    assert (run / "report.html").read_text() == before
    main(["report", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["rounds"] == 3


def test_a_run_that_has_not_ended_has_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path)])
    assert ended.value.code == 2 and "no metrics.json in it" in capsys.readouterr().err


def test_what_users_name_is_escaped(run: Path) -> None:
    values = json.loads((run / "metrics.json").read_text())
    values["dataset"]["name"] = "<script>alert(1)</script>"
    text = page("<b>x</b>", values, {"claim": "<i>"}, [])
    assert "<script" not in text and "<b>" not in text and "<i>" not in text
    assert "<script>alert(1)</script>" in read(text)


def test_without_privacy_each_round_shows_what_was_measured() -> None:
    played: list[dict[str, Any]] = [
        {"round": 1, "validation": None, "loss": 0.7, "epsilon": None},
        {"round": 2, "validation": 0.05, "loss": 0.6, "epsilon": None},
    ]
    drawn = rounds(played, private=False)
    assert "validation NDCG@10" in drawn and "mean training loss" in drawn and "epsilon" not in drawn


def test_the_ledger_is_counted_and_not_listed() -> None:
    assert described({"ledger": {"rows": [1, 2], "x": []}}).count("<dt>") == 3
    assert "2, all in privacy_card.json" in described({"rows": [1, 2]})


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_cover(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 8 and np.all(np.diff(found) > 0)
    assert found[0] <= low + 1e-6 * span + 1e-9 and found[-1] >= low + span - 1e-6 * span - 1e-9


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.floats(-5, 50)), min_size=1, max_size=20))
def test_points_stay_inside_the_picture(points: list[tuple[int, float]]) -> None:
    root = ElementTree.fromstring(lines([(float(x), y) for x, y in sorted(points)], "round", "a & b"))
    for circle in root.iter("circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 680 and 0 <= float(circle.attrib["cy"]) <= 220
    assert root.attrib["aria-label"] == "a & b against round"


def test_a_row_is_drawn_where_its_mean_is() -> None:
    root = ElementTree.fromstring(dots([Dot("a<b", 0.5, 0.4, 0.6, True), Dot("c", 0.25, 0.2, 1.0)], "NDCG@10"))
    first, second = (float(circle.attrib["cx"]) for circle in root.iter("circle"))
    assert (first - 260) / (second - 260) == pytest.approx(2, abs=0.01)
    assert "a<b" in "".join(root.itertext())
