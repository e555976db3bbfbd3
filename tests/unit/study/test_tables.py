"""A study's table, cost and comparison on results made by hand: every figure where it belongs."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.errors import FedrecError
from fedrec.evaluation.summary import Interval
from fedrec.experiment.settings import load
from fedrec.privacy.accounting.composition import compute_epsilon
from fedrec.privacy.ledger.account import composition_to_json
from fedrec.storage.run_folder import save_table
from fedrec.study.compare import compare, groups_of, to_json, to_lines
from fedrec.study.plan import METRICS, Study, of
from fedrec.study.results import Line, Measured, Results, collect, costs, describe_cost, measured, read_spent
from fedrec.study.tables import against_best, ordered, pivot, to_csv, to_markdown

NODE: dict[str, Any] = {
    "name": "toy", "title": "Toy", "methods": {"ease": ["model=ease"], "pop": ["model=popularity"]},
    "vary": "privacy.epsilon", "values": [8, 1], "label": "epsilon", "without": ["privacy=none"], "seeds": [0, 1],
    "references": ["popularity"],
}  # fmt: skip
DATA = {
    "name": "toys", "synthetic": False, "users": 1200, "items": 30, "interactions": 9000, "split": "last out",
    "catalogue": "item file",
}  # fmt: skip
PRIVATE: dict[str, Any] = {
    "unit": "user", "neighbouring": "add-remove", "trust": "server", "epsilon": 8.0, "delta": 1e-5,
    "attacker": {"false_alarms": 0.01, "finds_at_most": 0.254},
}  # fmt: skip


def figure(mean: float, seeds: bool = True) -> Measured:
    interval = Interval(mean, mean - 0.02, mean + 0.02) if seeds else None
    return Measured(mean, (mean,), interval, Interval(mean, mean - 0.1, mean + 0.1))


def line(method: str, value: float | None, mean: float, reference: bool = False) -> Line:
    """NDCG@10 is `mean` by full ranking; HR@10 twice that, and sampled figures ten times."""
    figures = dict(zip(METRICS, (mean, 2 * mean, 10 * mean, 20 * mean), strict=True))
    privacy = PRIVATE if value is not None else {"unit": "none"}
    seeds = 1 if reference else 2
    return Line(method, value, seeds, privacy, {n: figure(v, not reference) for n, v in figures.items()}, reference)


@pytest.fixture
def results() -> Results:
    lines = (
        line("pop", 8.0, 0.011),
        line("ease", None, 0.03),
        line("ease", 8.0, 0.02),
        line("ease", 1.0, 0.012),
        line("popularity", None, 0.024, reference=True),
    )
    return Results(of(NODE, "toy"), lines, DATA, 99)


def test_lines_are_read_from_without_to_the_largest_and_methods_in_the_studys_order(results: Results) -> None:
    assert [(one.method, one.value) for one in ordered(results)] == [
        ("ease", None),
        ("ease", 1.0),
        ("ease", 8.0),
        ("pop", 8.0),
        ("popularity", None),
    ]


def test_the_pivot_has_a_column_a_value_and_leaves_out_what_is_missing(results: Results) -> None:
    assert pivot(results, "full_ndcg@10").splitlines() == [
        "| NDCG@10, full ranking | no privacy | privacy.epsilon=1 | privacy.epsilon=8 |",
        "|---|---|---|---|",
        "| ease | 0.0300 +- 0.0200 | 0.0120 +- 0.0200 | 0.0200 +- 0.0200 |",
        "| pop |  |  | 0.0110 +- 0.0200 |",
        "| popularity, pooled data | 0.0240 | | |",
    ]
    assert pivot(results, "sampled_hr@10").startswith("| HR@10, 99 sampled |")


def test_the_share_of_the_best_reference_is_of_the_best_without_privacy(results: Results) -> None:
    assert against_best(results) == (
        "With no privacy, ease reaches NDCG@10 0.0300 by full ranking, 1.250 of the best reference "
        "(popularity, pooled data, 0.0240)."
    )
    assert against_best(Results(results.study, results.lines[:1], DATA, 99)) == ""


def test_the_csv_has_every_figure_in_its_column(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(results))))
    first, _, _, _, last = rows
    assert (first["method"], first["kind"], first["privacy.epsilon"], first["seeds"]) == ("pop", "trial", "8.0", "2")
    assert (first["epsilon"], first["delta"], first["trust"]) == ("8.0", "1e-05", "server")
    assert float(first["full_hr@10"]) == pytest.approx(0.022)
    assert float(first["full_hr@10_seeds_low"]) == pytest.approx(0.002)
    assert float(first["full_hr@10_seeds_high"]) == pytest.approx(0.042)
    assert float(first["sampled_ndcg@10_users_low"]) == pytest.approx(0.01)
    assert float(first["sampled_hr@10_users_high"]) == pytest.approx(0.32)
    assert [row["kind"] for row in rows] == ["trial", "without", "trial", "trial", "reference"]
    assert first["attacker_finds_at_most"] == "0.254" and last["attacker_finds_at_most"] == ""
    assert last["full_ndcg@10_seeds_low"] == last["epsilon"] == "" and last["unit"] == "none"


def test_the_page_says_what_the_data_are_and_what_failed(results: Results) -> None:
    text = to_markdown(results, [], {"ease-1-seed1": "Traceback\nKeyError: 'x'\n"}, "fedrec study toy")
    assert "toys: 1,200 users, 30 items, 9,000 interactions; split: last out. Catalogue: item file." in text
    assert text.endswith("Failed: ease-1-seed1: KeyError: 'x'\n")
    assert "| ease | 8 | 25 % | 0.0400 | 0.0200 | 0.0000 to 0.0400 | -0.0800 to 0.1200 | 0.4000 | 0.2000 | 2 |" in text
    assert "| popularity, pooled data |  |  | 0.0480 | 0.0240 |  | -0.0760 to 0.1240 | 0.4800 | 0.2400 | 1 |" in text
    assert "excludes selection" not in text
    assert to_markdown(Results(results.study, (), {}, 99), [], {}, "x").startswith("# Toy\n\nNo trial has ended.\n")


def rows(values: list[float]) -> dict[str, np.ndarray]:
    return {"user": np.arange(len(values)), **{metric: np.array(values) for metric in METRICS}}


def test_one_figure_over_seeds_by_hand() -> None:
    one = measured([rows([0.0, 0.4]), rows([0.2, 0.6])], "full_hr@10")
    assert one.mean == pytest.approx(0.3) and one.by_seed == pytest.approx((0.2, 0.4))
    assert one.seeds is not None and one.seeds.high - one.seeds.mean == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert (one.users.low, one.users.high) == pytest.approx((0.1, 0.5))


def spent(folder: Path, name: str, total: list[list[float]], **more: object) -> Path:
    (folder / name).mkdir()
    terms = {"unit": "user", "neighbouring": "add-remove", "trust": "server", "delta": 1e-5, "population": "people"}
    (folder / name / "spent.json").write_text(json.dumps({**terms, **more, "total": total}))
    return folder / name


def test_trials_on_the_same_people_add_up_and_others_stand_apart(tmp_path: Path) -> None:
    """Two Gaussians of multiplier 4 are one of 4 / sqrt(2); what cost nothing is no trial."""
    total = composition_to_json(frozenset({(4.0, 1.0, 1)}))
    made = [
        spent(tmp_path, "a", total),
        spent(tmp_path, "b", total, delta=1e-6),
        spent(tmp_path, "c", total, unit="interaction"),
        spent(tmp_path, "d", []),
        tmp_path / "gone",
    ]
    apart, together = costs(read_spent(made))
    assert (apart.unit, apart.trials, together.unit, together.trials) == ("interaction", 1, "user", 2)
    assert together.delta == 1e-6
    assert together.epsilon == pytest.approx(compute_epsilon(frozenset({(4.0 / 2**0.5, 1.0, 1)}), 1e-6), abs=1e-4)
    assert apart.epsilon == pytest.approx(compute_epsilon(frozenset({(4.0, 1.0, 1)}), 1e-5), abs=1e-4)
    assert describe_cost(together).startswith("On real users these 2 private trials would together have cost epsilon ")
    meaning = "at 1 % false alarms an attacker who guesses whether somebody took part is right for at most 2 %"
    terms = f"(unit: one user; add-remove; delta 1e-06; trusts the server): {meaning} of those who did"
    assert f"{terms}. All of it is charged to the ledger of people." in describe_cost(together)


def study(folder: Path) -> Study:
    """A study of two methods and two seeds, of which one trial of the second method has not ended."""
    made = of({**NODE, "values": [8], "without": []}, "toy")
    (folder / "study.json").write_text(made.to_json())
    for trial in made.trials():
        run = folder / "trials" / trial.name
        (run / "exact").mkdir(parents=True)
        document = {"method": trial.method, "seed": trial.seed, "rounds": 3, "nodes": 1, "run": trial.name}
        settings = load([*trial.overrides]).document
        (run / "config.yaml").write_text(json.dumps({**settings, "seed": trial.seed, "run": trial.name}))
        base = 0.5 if trial.method == "ease" else 0.2
        save_table(run / "exact" / "users.npz", rows([base + 0.01 * trial.seed, base]))
        ended = {"ended_early": None, "privacy": PRIVATE, "dataset": DATA, "test": {"sampled": {"negatives": 99}}}
        if (trial.method, trial.seed) != ("pop", 1):
            (run / "metrics.json").write_text(json.dumps({**ended, **document}))
    return made


def test_the_trials_of_a_study_that_have_ended_are_compared(tmp_path: Path) -> None:
    study(tmp_path)
    groups = groups_of([str(tmp_path)])
    assert [(group.said, sorted(group.rows)) for group in groups] == [("model=Ease", [0, 1]), ("model=Popularity", [0])]
    (one,) = compare(groups, "full_ndcg@10")
    assert one.difference.mean == pytest.approx(0.3025) and one.shared_seeds == 1 and one.seeds is None
    told = to_lines(groups, [one], "full_ndcg@10")
    assert told[0] == "full_ndcg@10 of model=Ease: 0.5025 (2 users, 2 seeds). It minus:"
    assert told[1].startswith("  model=Popularity: +0.3025 (95 % over users +0.3000 to +0.3050; one seed; p 0.5")
    found = to_json(groups, [one], "full_ndcg@10")["against"][0]
    assert found["seeds_ci"] is None and found["users_ci"] == pytest.approx([0.3, 0.305])


def test_a_study_none_of_whose_trials_has_ended_is_named(tmp_path: Path) -> None:
    for path in study(tmp_path).trials():
        (tmp_path / "trials" / path.name / "metrics.json").unlink(missing_ok=True)
    with pytest.raises(FedrecError, match="no trial of this study has ended yet"):
        groups_of([str(tmp_path)])


def test_what_has_ended_is_collected(tmp_path: Path) -> None:
    made = study(tmp_path)
    (tmp_path / "references" / "exact").mkdir(parents=True)
    save_table(tmp_path / "references" / "exact" / "users_popularity.npz", rows([0.1, 0.3]))
    found = collect(made, tmp_path)
    assert [(one.method, one.value, one.seeds, one.reference) for one in found.lines] == [
        ("ease", 8.0, 2, False),
        ("pop", 8.0, 1, False),
        ("popularity", None, 1, True),
    ]
    assert found.lines[0].measured["full_hr@10"].mean == pytest.approx(0.5025)
    assert found.lines[2].measured["full_hr@10"].mean == pytest.approx(0.2) and found.dataset["users"] == 1200
