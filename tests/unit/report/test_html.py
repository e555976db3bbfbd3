"""report.html: complete, escaped, read by keyboard, and nothing in it asks for anything outside."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fedrec.cli.main import main
from fedrec.report.console import result, table, verdict
from fedrec.report.html import Report, command, compare, context, decimals, headline, render_page
from fedrec.report.plot import PANELS, draw_rounds, inline, panels
from fedrec.storage.run_folder import RunFolder
from tests.support.tiny import SMALL

VOID = {"meta", "br", "hr", "img", "link", "input"}
ASKS = re.compile(
    r"(src|action|data|poster|srcset)\s*=|href\s*=\s*\"[^#]|url\((?!#)|@import|<(script|link|img|iframe|object|embed)",
    re.I,
)


class Checked(HTMLParser):
    """Refuses tags that are not closed in order, and collects what a reader sees and what a table's heads say."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.said.append(data)


def parsed(text: str) -> Checked:
    checked = Checked()
    checked.feed(text)
    checked.close()
    assert checked.open == []
    return checked


def read(text: str) -> str:
    return " ".join(" ".join(parsed(text).said).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_STATE", str(folder / "state"))
        main(
            ["simulate", *SMALL, "rounds=3", "name=one", f"output={folder}", "evaluation.baselines=[popularity,local]"]
        )
    return folder / "one"


@pytest.fixture
def report(run: Path) -> Report:
    return Report.of(RunFolder(run))


def test_the_page_holds_verdict_table_card_and_rounds(run: Path) -> None:
    text = (run / "report.html").read_text()
    said, values = read(text), json.loads((run / "metrics.json").read_text())
    assert f"{values['test']['full']['ndcg@10']:.4f}" in said and "a device alone, no federation" in said
    for part in (
        "add-remove", "trusts the device only", "Privacy card", "not protected", "excludes selection",
        PANELS["epsilon"], "Who is trusted", "fedrec simulate dataset=synthetic", "strength: 6.0", "_target_",
    ):  # fmt: skip
        assert part in said, part
    assert re.search(r"<title>synthetic · \w+ · \d+ \w+ \d{4} · fedrec</title>", text)
    assert said.count("at 1 % false alarms an attacker who guesses") == 1  # the guarantee is said once


def test_exact_curves_are_for_the_owner_alone(run: Path) -> None:
    """Accuracy and loss by round are exact: not in a page that others may read."""
    public, own = (run / "report.html").read_text(), run / "exact" / "report.html"
    for name in (PANELS["validation"], PANELS["loss"]):
        assert name not in read(public) and name in read(own.read_text())
    assert "not covered by epsilon" in read(own.read_text()) and own.stat().st_mode & 0o777 == 0o600


def test_nothing_in_the_page_asks_for_anything_outside(run: Path) -> None:
    for path in (run / "report.html", run / "exact" / "report.html"):
        text = path.read_text()
        assert "default-src 'none'" in text and not ASKS.search(re.sub(r"default-src", "", text))
        assert not re.search(r"https?://|//[a-z]", text)


def test_a_keyboard_and_a_screen_reader_reach_every_table(run: Path) -> None:
    found = parsed((run / "report.html").read_text()).attributes
    regions = [attributes for _, attributes in found if attributes.get("role") == "region"]
    assert len(regions) == sum(tag == "table" for tag, _ in found)
    assert all(one["tabindex"] == "0" and one.get("aria-label", one.get("aria-labelledby")) for one in regions)
    assert '<th scope="col"></th>' not in (run / "report.html").read_text()


def test_no_text_of_the_page_is_smaller_than_twelve_pixels(run: Path) -> None:
    text = (run / "report.html").read_text()
    rems = [float(size) for size in re.findall(r"font-size: ?(\.?\d*\.?\d+)rem", text)]
    assert rems and min(rems) * 16 >= 12
    for picture in re.findall(r"<svg.*?</svg>", text, re.S):  # points, shown at 4/3 of a pixel each
        assert 'width="252pt"' in picture
        assert all(float(size) * 4 / 3 >= 12 for size in re.findall(r"font-size: ([\d.]+)px", picture))


def test_every_picture_is_well_formed_and_told_in_figures(run: Path) -> None:
    pictures = re.findall(r"<svg.*?</svg>", (run / "exact" / "report.html").read_text(), re.S)
    assert len(pictures) == 3
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert re.search(r"by round: \S+ after round [13], \S+ after round 3, largest", root.attrib["aria-label"])
        assert "#0072b2" not in picture and "var(--ours)" in picture and "<text" in picture


def test_without_matplotlib_the_rounds_are_a_table(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = render_page(context(report), [{"round": n, "epsilon": n / 10} for n in range(1, 101)])
    assert "<svg" not in text and "<details open>" in text and "fedrec[report]" in text
    said = read(text)
    assert "The figures of 12 rounds" in said and "1 0.1 10 1 19 1.9" in said and "100 10" in said


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


def test_what_users_name_is_escaped(report: Report) -> None:
    bad = "<script>alert(1)</script>"
    report.values["dataset"]["name"] = report.values["baselines"][bad] = bad
    report.values["baselines"][bad] = report.values["baselines"]["popularity"]
    card = {"claim": "<i>", "fields": {"choices": [bad]}, "missing": []}
    one = Report("<b>x</b>", report.values, card, [], {"path": bad}, "<b>today</b>")
    text = render_page({**context(one), "command": bad}, [])
    assert "<script" not in text and "<b>x" not in text and "<b>today" not in text and "<i>\n" not in text
    assert read(text).count(bad) >= 5


def test_without_privacy_each_round_shows_what_was_measured(report: Report) -> None:
    played: list[dict[str, Any]] = [
        {"round": 1, "validation": None, "loss": 0.7, "epsilon": None},
        {"round": 2, "validation": 0.05, "loss": 0.6, "epsilon": None},
    ]
    said = read(render_page(context(report), played))
    assert PANELS["validation"] in said and PANELS["loss"] in said and PANELS["epsilon"] not in said


def made(ours: float, popular: tuple[float, float, float], free: tuple[float, float, float]) -> dict[str, Any]:
    def other(ndcg: float, low: float, high: float) -> dict[str, Any]:
        return {"full": {"ndcg@10": ndcg}, "paired_ndcg@10": {"low": low, "high": high}}

    found = {"popularity": other(*popular), "no_privacy": other(*free)}
    return {"model": "mf", "test": {"full": {"ndcg@10": ours}}, "baselines": found}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            made(0.034, (0.02, 0.01, 0.02), (0.04, -0.01, -0.001)),
            "70 % above popularity, at a cost of 15 % against no privacy.",
        ),
        (made(0.01, (0.02, -0.02, -0.01), (0.01, -0.01, 0.01)), "50 % below popularity, no certain cost of privacy."),
        (
            made(0.02, (0.02, -0.02, 0.01), (0.01, 0.0, 0.02)),
            "Not to be told from popularity, no certain cost of privacy.",
        ),
        ({**made(0.02, (0, 0, 0), (0, 0, 0)), "baselines": {"popularity": {}, "no_privacy": {}}}, "Mf."),
    ],
)
def test_the_headline_says_no_more_than_the_intervals_do(values: dict[str, Any], said: str) -> None:
    assert headline(values) == said


@pytest.mark.parametrize(
    ("low", "high", "digits"), [(0.0244, 0.0453, 3), (0.020, 0.026, 4), (0.1, 0.9, 2), (0.5, 0.5, 4), (0, 1e-9, 5)]
)
def test_figures_have_the_digits_that_mean_something(low: float, high: float, digits: int) -> None:
    assert decimals(low, high) == digits


def test_a_bar_ends_where_its_interval_does(report: Report) -> None:
    rows = compare(report.values)
    assert max(row["bar"][2] for row in rows) == 100
    assert all(0 <= low <= mean <= high for mean, low, high in (row["bar"] for row in rows))


def test_a_run_on_devices_that_tell_nothing_has_a_page(report: Report, tmp_path: Path) -> None:
    values = {
        **report.values,
        "dataset": {"name": "real", "users": 2, "items": 9, "interactions": None, "split": "leave-last-out"},
        "test": {"full": {}, "sampled": {}, "users": 0},
        "baselines": {"popularity": {}, "private_popularity": {}, "no_privacy": {}},
        "candidates": None,
    }
    said = read(render_page(context(Report("real", values, report.card, [], {}, "1 Jan 2026")), []))
    assert "No user had anything held out" in said and "2 users, 9 items" in said and "Again:" not in said
    assert "devices have not told" in verdict(values) and table(values).startswith("No figures")
    assert "Guarantee: epsilon" in result(values, tmp_path, sys.stdout)


def test_the_command_is_left_out_where_a_part_is_somebody_elses(report: Report) -> None:
    assert command(report.settings).startswith("fedrec simulate ") and command({}) == ""
    assert command({**report.settings, "model": {"_target_": "mine.Model"}}) == ""


def test_a_picture_of_many_panels_keeps_points_inside() -> None:
    found = panels({"round": [1, 2], "loss": [-2.0, None], "validation": [0.0, 0.0], "epsilon": [None, None]})
    assert found == {"validation": [(1, 0.0), (2, 0.0)], "loss": [(1, -2.0)]}
    figure = draw_rounds(found)
    assert len(figure.axes) == 2
    for axes, points in zip(figure.axes, found.values(), strict=True):
        low, high = axes.get_ylim()
        assert all(low <= y <= high for _, y in points)
    assert 'aria-label="a &lt; b"' in inline(figure, "a < b")
