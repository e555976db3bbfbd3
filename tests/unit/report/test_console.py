"""What people read: the live line, the verdict, the table; never one bare epsilon."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedrec.federated.state import RoundReport
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.report.console import Progress, fitted, result, table, verdict
from fedrec.report.metrics_json import ended_early

FULL = {"hr@10": 0.07, "ndcg@10": 0.036, "ndcg@10_ci": [0.03, 0.04], "coverage@10": 0.15}
SAMPLED = {"negatives": 99, "hr@10": 0.68, "ndcg@10": 0.44}
PRIVACY = {"unit": "interaction", "neighbouring": "add-remove", "trust": "device", "epsilon": 8.0, "delta": 3.2e-6}

UNKNOWN = SimpleNamespace(rounds=3, mechanism=NoPrivacy(), algorithm=SimpleNamespace(trains=True))


def found(ndcg: float, low: float, high: float) -> dict[str, Any]:
    return {
        "full": {**FULL, "ndcg@10": ndcg},
        "sampled": SAMPLED,
        "paired_ndcg@10": {"difference": 0.036 - ndcg, "low": low, "high": high},
    }


def values(popular: dict[str, Any], twin: dict[str, Any], **privacy: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "ml-latest-small", "synthetic": False},
        "model": "content",
        "privacy": {**PRIVACY, **privacy},
        "test": {"full": FULL, "sampled": SAMPLED},
        "baselines": {"popularity": popular, "private_popularity": {}, "no_privacy": twin},
    }


@pytest.mark.parametrize(
    ("popular", "word"),
    [((0.02, 0.01, 0.02), "above"), ((0.05, -0.03, -0.01), "below"), ((0.035, -0.01, 0.01), "not to be told from")],
)
def test_the_verdict_says_no_more_than_the_interval_does(popular: tuple[float, float, float], word: str) -> None:
    said = verdict(values(found(*popular), found(0.04, -0.01, 0.0)))
    assert f", {word} popularity's" in said and "privacy costs 10 %" in said


def test_the_verdict_in_full() -> None:
    assert verdict(values(found(0.02, 0.01, 0.02), found(0.04, -0.01, -0.001))) == (
        "On ml-latest-small, content at interaction level (epsilon 8.00) reaches NDCG@10 0.0360 on full ranking, above "
        "popularity's 0.0200 (difference +0.0160, 95 % over users +0.0100 to +0.0200); without privacy it reaches "
        "0.0400, so privacy costs 10 %."
    )
    said = verdict(values({}, found(0.03, -0.01, 0.01)))
    assert said.endswith(
        "; without privacy it reaches 0.0300, no less than that, a difference within the noise of these users."
    )


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.0, 0.1, "not to be told from"), (-0.1, 0.0, "not to be told from"), (1e-9, 1, "above")]
)
def test_an_interval_that_touches_zero_tells_nothing(low: float, high: float, word: str) -> None:
    assert f", {word} popularity's" in verdict(values(found(0.03, low, high), {}))


def test_what_privacy_costs_is_the_share_that_is_lost() -> None:
    for free, said in ((0.072, "costs 50 %"), (0.36, "costs 90 %"), (36.0, "costs 100 %")):
        assert f"so privacy {said}" in verdict(values({}, found(free, -0.1, -0.01)))


def test_synthetic_users_are_named_as_such() -> None:
    made = values({}, {})
    made["dataset"] = {"name": "synthetic", "synthetic": True}
    assert verdict(made).startswith("On synthetic (synthetic users), content at ")


def test_a_run_that_ended_early_says_so_in_its_verdict() -> None:
    """A statistic of two rounds that lost its second one has counts alone: nobody may take it for the model."""
    whole = values(found(0.02, 0.01, 0.02), {})
    assert verdict({**whole, "ended_early": ended_early(2, 2)}) == verdict(whole)
    said = verdict({**whole, "ended_early": ended_early(1, 2)})
    assert said.startswith(verdict(whole)) and "Not the whole run: it ended after 1 of 2 rounds" in said


def test_the_table_has_a_line_a_method_and_names_pooled_data() -> None:
    made = values(found(0.02, 0.01, 0.02), found(0.04, -0.01, 0.0))
    made["baselines"]["ials"] = found(0.037, -0.01, 0.01)
    lines = table(made).splitlines()
    assert len(lines) == 6 and "interaction level, epsilon 8.00" in lines[2]
    assert any("iALS, pooled data" in line for line in lines)
    made["test"]["rmse"] = 0.95
    assert "RMSE" in table(made).splitlines()[-1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(number: int, **changes: Any) -> RoundReport:
    plain = dict(round=number, cohort=40, answered=38, rejected={}, released=True, loss=0.5, validation=None)
    plain |= dict(epsilon=1.5, seconds=0.1, bytes_down=1, bytes_up=1)
    return RoundReport(**{**plain, **changes})


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "pipe"])
def test_progress_shows_what_was_promised(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    progress = Progress(stream)
    progress.start("", SimpleNamespace(experiment=UNKNOWN, sequential_reason=None, engine_note=None))  # type: ignore[arg-type]
    progress.round(report(1))
    progress.round(report(2, validation=0.02, rejected={2: "emb is not finite"}))
    progress.round(report(3, epsilon=None))
    said = stream.getvalue()
    expected = (
        "round 1/3",
        "380 devices/s",
        "loss 0.5",
        "epsilon 1.50",
        "s left",
        "validation NDCG@10 0.0200",
        "node 2",
    )
    assert all(part in said for part in expected) and "no privacy" in said
    assert ("\r" in said) == stream.isatty()


def test_a_run_that_ends_early_says_so() -> None:
    progress = Progress(io.StringIO())
    session = SimpleNamespace(experiment=UNKNOWN, sequential_reason=None, engine_note=None)
    progress.start("", session)  # type: ignore[arg-type]
    progress.end(session, 2)  # type: ignore[arg-type]
    assert "round 2 of 3" in progress.stream.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [30, 60, 79, 118])
def test_the_live_line_fits_and_keeps_what_is_needed_most(width: int) -> None:
    progress = Progress(io.StringIO(), label="private_popularity", rounds=300, started=0.0)
    progress.validation = 0.02
    parts = progress._parts(report(13), 10.0)
    line = fitted(parts, width)
    assert len(line) <= width and line.startswith("private_popularity round 13/30")
    assert ("epsilon 1.50" in line) == (width >= 60) and ("devices/s" in line) == (width >= 118)


def test_each_round_takes_one_line_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    progress = Progress(Terminal())
    progress.start("", SimpleNamespace(experiment=UNKNOWN, sequential_reason=None, engine_note=None))  # type: ignore[arg-type]
    progress.round(report(1))
    progress.round(report(2, rejected={2: "emb is not finite"}))
    progress.close()
    lines = progress.stream.getvalue().split("\n")  # type: ignore[attr-defined]
    shown = [part for part in lines[0].split("\r\x1b[K") if part]
    assert len(shown) == 2 and all(len(part) < 60 for part in shown) and shown[0].startswith("####------")
    assert lines[1] == "  round 2: node 2 does not count: emb is not finite" and lines[2:] == [""]


@pytest.mark.parametrize("width", [52, 60, 80, 100])
def test_the_table_fits_the_terminal_and_leaves_out_the_least(width: int) -> None:
    made = table(values(found(0.02, 0.01, 0.02), found(0.04, -0.01, 0.0)), width)
    assert all(len(line) <= width for line in made.splitlines())
    assert made.count("0.0360 (0.0300 to 0.0400)") == 1 and ("coverage" in made) == (width >= 100)


def test_a_result_is_wrapped_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = values(found(0.02, 0.01, 0.02), {})
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, result(made, tmp_path, io.StringIO()).splitlines())) > 150
    wrapped = result(made, tmp_path, Terminal()).splitlines()
    assert max(len(line) for line in wrapped[:-1]) <= 70 and wrapped[-1] == f"Run folder: {tmp_path.resolve()}"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_the_stages_of_reading_are_shown_where_they_take_time(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("fedrec.report.console.time.monotonic", lambda: now[0])
    progress = Progress(stream)
    progress.stage("reading", 0, 200)
    assert stream.getvalue() == ""  # a small file is over before anything is said
    now[0] += 6
    progress.stage("reading", 50, 200)
    progress.stage("reading", 60, 200)  # at once again: not said
    now[0] += 6
    progress.stage("ordering", 0, 200)
    said = stream.getvalue()
    assert "reading" in said and "25 %" in said and "30 %" not in said and "ordering" in said
    progress.close(wipe=True)
    assert stream.getvalue().endswith("\r\x1b[K") == stream.isatty()
