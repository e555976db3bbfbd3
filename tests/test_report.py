"""What people read: the live line, the verdict, the table; never one bare epsilon."""

import io
from types import SimpleNamespace
from typing import Any

import pytest

from fedrec.privacy.none import NoPrivacy
from fedrec.report.metrics import ended_early
from fedrec.report.progress import Progress
from fedrec.report.verdict import guarantee, table, verdict
from fedrec.told import Round

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


def test_the_guarantee_carries_everything_that_it_means_nothing_without() -> None:
    said = guarantee(PRIVACY)
    assert all(part in said for part in ("8.00", "interaction", "add-remove", "3.2e-06", "device"))
    assert guarantee({"unit": "none"}) == "no privacy guarantee"


@pytest.mark.parametrize(
    ("popular", "word"),
    [((0.02, 0.01, 0.02), "above"), ((0.05, -0.03, -0.01), "below"), ((0.035, -0.01, 0.01), "not to be told from")],
)
def test_the_verdict_says_no_more_than_the_interval_does(popular: tuple[float, float, float], word: str) -> None:
    said = verdict(values(found(*popular), found(0.04, -0.01, 0.0)))
    assert f", {word} popularity's" in said and "privacy costs 10 %" in said


def test_synthetic_users_are_named_as_such() -> None:
    made = values({}, {})
    made["dataset"] = {"name": "synthetic", "synthetic": True}
    assert "(synthetic users)" in verdict(made)


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


def report(number: int, **changes: Any) -> Round:
    plain = dict(round=number, cohort=40, answered=38, rejected={}, released=True, loss=0.5, validation=None)
    plain |= dict(epsilon=1.5, seconds=0.1, bytes_down=1, bytes_up=1)
    return Round(**{**plain, **changes})


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "pipe"])
def test_progress_shows_what_was_promised(stream: io.StringIO) -> None:
    progress = Progress(stream)
    progress.start("", SimpleNamespace(experiment=UNKNOWN, one_by_one=None))  # type: ignore[arg-type]
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
    session = SimpleNamespace(experiment=UNKNOWN, one_by_one=None)
    progress.start("", session)  # type: ignore[arg-type]
    progress.end(session, 2)  # type: ignore[arg-type]
    assert "round 2 of 3" in progress.stream.getvalue()  # type: ignore[attr-defined]
