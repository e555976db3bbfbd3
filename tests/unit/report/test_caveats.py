"""What stands beside figures that mean less than they seem to; nothing beside others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.errors import FedrecError
from fedrec.evaluation.batched import chance_of_a_hit, count_rivals
from fedrec.experiment.rehearsal import check_tested
from fedrec.report.caveats import find_caveats, sampled_heading
from fedrec.report.console import table
from tests.support.chance import drawn_for
from tests.support.tiny import small


def figures(ndcg: float, low: float = 0.0, high: float = 0.0) -> dict[str, Any]:
    full = {"hr@10": 0.1, "ndcg@10": ndcg, "ndcg@10_ci": [0.0, 1.0], "ndcg@10_pessimistic": ndcg, "coverage@10": 0.1}
    paired = {"difference": 0.0, "low": low, "high": high}
    sampled = {"negatives": 99, "drawn": [99, 99], "hr@10": 0.5, "ndcg@10": 0.3}
    return {"full": full, "sampled": sampled, "users": 1000, "tie_fraction": 0.0, "paired_ndcg@10": paired}


def values(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "log", "users": 1000, "order": "time", "findings": []},
        "model": "mf",
        "privacy": {"unit": "user", "epsilon": 8.0},
        "test": {**figures(0.05), "fewer_candidates": 0, "chance_hr@10": 0.01},
        "baselines": {"popularity": figures(0.04, 0.001, 0.02), "no_privacy": figures(0.06, -0.02, -0.01)},
        **changes,
    }


def test_a_run_without_anything_wrong_has_none() -> None:
    assert find_caveats(values(), "ease") == []
    assert find_caveats(values(baselines={"popularity": {}, "private_popularity": {}, "no_privacy": {}})) == []


def test_figures_of_real_devices_that_nobody_told_have_none() -> None:
    made = values(test={"full": {}, "sampled": {}, "users": 0}, baselines={"popularity": {}})
    assert find_caveats(made) == [] and sampled_heading(made) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"users": 199}, "Only 199 users had something held out"),
        ({"users": 1}, "Only 1 user had something held out"),
        ({"chance_hr@10": 0.35}, "Blind chance puts 35 % of the held-out items among the first ten"),
        ({"tie_fraction": 0.3, "full": {"ndcg@10": 0.05, "ndcg@10_pessimistic": 0.02}}, "would be 0.0200"),
        ({"fewer_candidates": 3}, "3 of 1,000 users had fewer than 99 other items to be ranked against (12 to 99"),
        ({"fewer_candidates": 1000}, "All 1,000 users had fewer than 99 other items"),
    ],
)
def test_a_measure_that_is_spent_is_told(change: dict[str, Any], said: str) -> None:
    made = values()
    made["test"]["sampled"]["drawn"] = [12, 99]
    made["test"] |= change
    (told,) = find_caveats(made)
    assert said in told and told.endswith(".") and told.count(". ") == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": "file"}, "each user's last row in the file"),
        ({"order": "random"}, "drawn at random"),
        ({"findings": [{"text": "7 of 9 are known", "setting": ""}]}, "7 of 9 are known."),
        ({"findings": [{"text": "all times are equal", "setting": "x=1 mends"}]}, "All times are equal (x=1 mends)."),
        (
            {"order": "file", "findings": [{"text": "rows by item", "setting": "dataset.order=random draws"}]},
            "Rows by item (dataset.order=random draws).",
        ),
    ],
)
def test_what_was_held_out_is_told(change: dict[str, Any], said: str) -> None:
    made = values()
    made["dataset"] |= change
    (told,) = find_caveats(made)
    assert said in told


def test_ties_that_change_nothing_are_left_out() -> None:
    made = values()
    made["test"]["tie_fraction"] = 0.9
    assert find_caveats(made) == []


def test_below_popularity_what_is_better_is_named() -> None:
    below = {"popularity": figures(0.1, -0.08, -0.01)}
    (told,) = find_caveats(values(baselines=below), "ease")
    assert told == "Popularity ranks better than mf on these data: model=ease suits data like these."
    tried = {**below, "private_popularity": figures(0.09), "ials": figures(0.2), "ease": figures(0.3)}
    (told,) = find_caveats(values(baselines=tried), "ease")
    assert "model=popularity reaches 0.0900 under the same privacy; EASE reaches 0.3000 on pooled data." in told
    (told,) = find_caveats(values(baselines=below), "mf")
    assert "nothing tried here does better" in told


def test_below_popularity_by_no_more_than_chance_nothing_is_said() -> None:
    assert find_caveats(values(baselines={"popularity": figures(0.1, -0.08, 0.01)}), "ease") == []


def test_a_row_without_privacy_that_is_worse_is_no_baseline() -> None:
    (told,) = find_caveats(values(baselines={"no_privacy": figures(0.01, 0.02, 0.06)}))
    assert "tuned for noise" in told and "0.0100" in told
    assert find_caveats(values(baselines={"no_privacy": figures(0.04, -0.01, 0.03)})) == []


def test_sampled_columns_say_how_many_were_drawn_and_vanish_where_few_were() -> None:
    made = values()
    assert sampled_heading(made) == "99" and "99 sampled" in table(made)
    made["test"]["sampled"]["drawn"], made["test"]["fewer_candidates"] = [40, 99], 100
    assert sampled_heading(made) == "40 to 99" and "40 to 99 sampled" in table(made)
    made["test"]["fewer_candidates"] = 101
    assert sampled_heading(made) is None and "sampled" not in table(made)


def test_chance_is_that_of_the_items_a_user_has_not_used() -> None:
    _, dataset = small()
    users = np.arange(dataset.interactions.users)
    rivals = count_rivals(dataset.devices, users)
    for user in users.tolist():
        device = dataset.devices[user]
        assert rivals[user] == len(dataset.catalogue) - len(set(device.known.tolist()) | set(device.test.tolist()))
    assert chance_of_a_hit(dataset.devices, users) == pytest.approx(np.minimum(1, 10 / (rivals + 1)).mean())
    assert chance_of_a_hit(dataset.devices, users[:0]) is None
    kept = replace(dataset.devices, repeats=True)  # where what is known stays in the list, all else is a rival
    assert (count_rivals(kept, users) == len(dataset.catalogue) - 1).all()


def frame(users: int, items: int) -> dict[str, list[int]]:
    pairs = [(user, item) for user in range(users) for item in range(items)]
    return {"user": [user for user, _ in pairs], "item": [item for _, item in pairs], "time": list(range(len(pairs)))}


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (frame(1, 5), "one user"),
        (frame(5, 1), "has an item held out"),
        (frame(5, 4), "has used all 4 items"),
    ],
)
def test_data_on_which_nothing_can_be_measured_cost_nothing(
    log: dict[str, list[int]], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    with pytest.raises(FedrecError, match=said):
        fedrec.simulate(log, model="popularity", privacy="user", output=str(tmp_path), progress=False)
    assert not list(tmp_path.glob("state/ledger/*")) and not list(tmp_path.glob("*/config.yaml"))


REPEATED = {  # each of 6 users uses 5 of 7 items in order, and then the first of them again; one repeats nothing
    "user": [user for user in range(6) for _ in range(6)] + [6, 6, 6],
    "item": [(user + n % 5) % 7 for user in range(6) for n in range(6)] + [0, 3, 6],
    "time": list(range(39)),
}


def test_targets_that_were_known_are_told_where_repeats_are_kept(tmp_path: Path) -> None:
    asked = {"model": "popularity", "privacy": "none", "output": str(tmp_path), "progress": False}
    kept = fedrec.simulate(REPEATED, "dataset.repeats=all", **asked, name="all")
    assert any("6 of 7 held-out items were used before" in text for text in kept.caveats)
    first = fedrec.simulate(REPEATED, **asked, name="first")
    assert not any("used before" in text for text in first.caveats)


def test_which_ratings_are_likes_is_no_caveat_and_dislikes_are_one(tmp_path: Path) -> None:
    log = frame(8, 6)
    log["item"] = [(item + user) % 9 for user, item in zip(log["user"], log["item"], strict=True)]
    asked = {"model": "popularity", "privacy": "none", "output": str(tmp_path), "progress": False}
    for stars, said in (([1 + n % 5 for n in range(48)], False), ([(-1) ** n * 5 for n in range(48)], True)):
        run = fedrec.simulate({**log, "stars": stars}, value="stars", **asked)
        assert any("rated below 0" in text for text in run.caveats) == said
        assert any("atings run from" in text for text in run.caveats) == said


def test_one_item_that_somebody_lacks_is_enough_to_measure() -> None:
    experiment, dataset = small()
    check_tested(experiment, dataset)


def test_a_run_tells_its_caveats_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedrec.cli.main import main

    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    lines = [f"{user},{(user * 7 + n * n) % 30},{n}" for user in range(20) for n in range(8)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *lines]))
    asked = [f"dataset.path={tmp_path / 'log.csv'}", "model=popularity", "privacy=none", f"output={tmp_path}", "name=a"]
    with drawn_for("caveats"):
        main(["simulate", "dataset=csv", *asked])
    found = json.loads((tmp_path / "a" / "metrics.json").read_text())["caveats"]
    assert any("Only 20 users" in text for text in found) and any("Blind chance" in text for text in found)
    said, page = capsys.readouterr().out, (tmp_path / "a" / "report.html").read_text().replace("\u00a0", " ")
    run = fedrec.load_run(tmp_path / "a")
    for text in found:
        assert f"Beware: {text}" in said and text.replace("'", "&#39;") in page and text in run.caveats
    assert "Beware" in run._repr_html_()
