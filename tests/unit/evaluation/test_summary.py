"""Tables of users, intervals over them, and the result they make."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import FedrecError
from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.metrics import Ranks
from fedrec.evaluation.per_device import Row
from fedrec.evaluation.per_user import PerUserResults, columns, join, mean_over_seeds, table
from fedrec.evaluation.summary import intervals, paired_interval, summarize
from fedrec.storage.run_folder import load_table, save_table

OPTIONS = EvaluationConfig()


def row(user: int, above: int, tied: int = 0, top: tuple[int, ...] = (0, 1), error: float | None = None) -> Row:
    place = Ranks(np.array([above]), np.array([tied]))
    return Row(user, place, Ranks(np.array([0]), np.array([0])), 99, np.array(top, np.int32), error)


def rows(*parts: Row) -> PerUserResults:
    return table(parts, OPTIONS.cutoffs)


def test_a_result_by_hand() -> None:
    counts = np.array([9, 1] + [0] * 18)
    found = summarize(rows(row(5, 0, 1), row(2, 30, top=(0, 7))), counts, OPTIONS, evaluated=3)
    assert found["full"]["hr@10"] == pytest.approx(0.5)
    assert found["full"]["mrr@10"] == pytest.approx(0.375)
    assert found["full"]["ndcg@10_pessimistic"] == pytest.approx(0.5 / np.log2(3))
    assert found["full"]["coverage@10"] == pytest.approx(3 / 20)
    assert found["full"]["popularity_share@10"] == pytest.approx(3 / 4)
    assert (found["users"], found["excluded"], found["tie_fraction"]) == (2, 1, 0.5)
    assert found["sampled"]["negatives"] == 99 and found["sampled"]["hr@10"] == 1
    low, high = found["full"]["hr@10_ci"]
    assert low <= 0.5 <= high
    assert "rmse" not in found
    assert json.loads(json.dumps(found)) == found


def test_the_popular_tenth_is_rounded_up_and_empty_slots_are_nobodys() -> None:
    """Of 21 items the three most used are popular, ties by row; the second list has one slot filled."""
    counts = np.array([1] * 18 + [5, 7, 5])
    found = summarize(rows(row(0, 0, top=(18, 19, 0, 20)), row(1, 0, top=(1,))), counts, OPTIONS, 2)["full"]
    assert found["popularity_share@10"] == pytest.approx(3 / 5)
    assert found["coverage@10"] == pytest.approx(5 / 21)


def test_users_with_fewer_candidates_than_asked_for_are_counted() -> None:
    some = rows(row(0, 0), row(1, 0), row(2, 0))
    some["candidates"] = np.array([99, 98, 3])
    assert summarize(some, np.ones(9, int), OPTIONS, 3)["fewer_candidates"] == 2


def test_several_targets_of_a_user_count_with_their_mean() -> None:
    ranks = Ranks(np.array([0, 1, 30, 2]), np.array([0, 1, 0, 0]))
    found = columns("full", ranks, np.array([3, 1]), (10,))
    assert found["full_hr@10"] == pytest.approx([2 / 3, 1])
    assert found["full_mrr@10"] == pytest.approx([(1 + (1 / 2 + 1 / 3) / 2) / 3, 1 / 3])
    assert found["full_ndcg@10_pessimistic"] == pytest.approx([(1 + 1 / np.log2(4)) / 3, 1 / np.log2(4)])
    assert found["full_tied"] == pytest.approx([1 / 3, 0])


def test_an_error_of_ratings_is_a_root_of_means() -> None:
    found = summarize(rows(row(0, 0, error=1.0), row(1, 0, error=7.0)), np.ones(9, int), OPTIONS, 2)
    assert found["rmse"] == pytest.approx(2.0)
    assert "rmse" not in summarize(rows(row(0, 0, error=1.0), row(1, 0)), np.ones(9, int), OPTIONS, 2)


def test_nobody_to_evaluate_is_stated_and_no_number_is_made_up() -> None:
    found = summarize(rows(), np.ones(9, int), OPTIONS, 4)
    assert (found["users"], found["excluded"]) == (0, 4)
    assert found["full"]["hr@10"] is None and found["full"]["hr@10_ci"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_tables_join_in_any_order_and_come_back_from_disk(tmp_path: Path) -> None:
    whole = rows(row(1, 3), row(2, 4), row(3, 5))
    joined = join([rows(row(3, 5)), rows(row(2, 4), row(1, 3))])
    save_table(tmp_path / "users.npz", joined)
    assert (tmp_path / "users.npz").stat().st_mode & 0o777 == 0o600
    back = load_table(tmp_path / "users.npz")
    assert set(back) == set(whole)
    assert all(np.array_equal(back[name], whole[name], equal_nan=True) for name in whole if name != "top")
    assert np.array_equal(back["top"], whole["top"])
    with pytest.raises(FedrecError, match="once"):
        join([whole, whole])


def test_a_table_is_its_owners_alone_also_where_a_file_was_and_holds_numbers_only(tmp_path: Path) -> None:
    path = tmp_path / "users.npz"
    path.write_text("old")
    path.chmod(0o644)
    save_table(path, rows(row(1, 3)))
    assert path.stat().st_mode & 0o777 == 0o600
    objects = {"user": np.array([{}], object)}
    with pytest.raises(ValueError, match="allow_pickle"):
        save_table(path, objects)
    np.savez_compressed(path, user=objects["user"])
    with pytest.raises(ValueError, match="allow_pickle"):
        load_table(path)


def test_seeds_are_averaged_per_user() -> None:
    mean = mean_over_seeds([rows(row(1, 0), row(2, 0)), rows(row(2, 99), row(1, 0))], "full_hr@10")
    assert mean.tolist() == [1.0, 0.5]
    with pytest.raises(FedrecError, match="different users"):
        mean_over_seeds([rows(row(1, 0)), rows(row(2, 0))], "full_hr@10")


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    values = (generator.random((300, 400)) < 0.3).astype(np.float64)
    covered = [one.low <= 0.3 <= one.high for one in intervals(values)]
    assert 0.91 <= np.mean(covered) <= 0.98


def test_the_interval_has_the_width_of_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(size=2000)
    found = intervals(values[:, None])[0]
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found.mean == pytest.approx(values.mean())
    assert found.low < found.mean < found.high


def test_pairing_sees_what_two_separate_intervals_can_not() -> None:
    generator = np.random.default_rng(2)
    base = generator.normal(size=500)
    better = base + 0.05 + generator.normal(scale=0.1, size=500)
    paired = paired_interval(better, base)
    alone = intervals(np.stack([better, base], axis=1))
    assert paired.low > 0 and alone[0].low < alone[1].high
    assert paired.mean == pytest.approx((better - base).mean())
    assert paired_interval(better, base) == paired, "seeded"
    with pytest.raises(FedrecError, match="shapes"):
        paired_interval(better, base[:4])
