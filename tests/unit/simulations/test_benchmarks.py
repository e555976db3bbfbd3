"""The benchmarks run, and their figures follow from what was measured; how fast anything is, no test says."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from fedrec.training.kernels.engine import KernelEngine
from fedrec.training.vectorized.engine import VectorizedEngine
from simulations.benchmarks.engine import __main__, ours
from simulations.benchmarks.engine.job import SHIPPED, arrays, from_shipped, spread_out
from simulations.benchmarks.engine.ours import engine, flower
from simulations.benchmarks.engine.table import Ratio, Row, show
from simulations.benchmarks.engine.task import Task
from simulations.benchmarks.scale import show as show_scale


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    from_shipped(folder)
    return folder


def test_the_job_of_the_shipped_users_has_four_negatives_of_each_item(work: Path) -> None:
    table = arrays(work / "bench" / f"job-{SHIPPED}.npz")
    assert len(table) == 671 and table.items == 9066
    assert set(np.unique(table.value).tolist()) == {0.0, 1.0}
    positives = np.add.reduceat(table.value, table.start[:-1])
    np.testing.assert_array_equal(5 * positives, np.diff(table.start))


@pytest.mark.parametrize(("engine", "kind"), [("auto", KernelEngine), ("vectorized", VectorizedEngine)])
def test_the_engine_that_is_measured_is_the_one_a_new_run_takes(
    work: Path, engine: str, kind: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained = list[object]()
    honest = kind.train  # type: ignore[attr-defined]

    def watched(self: object, *given: object) -> object:
        trained.append(self)
        return honest(self, *given)

    monkeypatch.setattr(kind, "train", watched)
    play = ours.alone(Task(work, SHIPPED, 3, private=False, threads=1), tmp_path, engine)
    assert play() > 0 and trained


@pytest.mark.parametrize("private", [False, True])
def test_a_round_of_ours_trains_the_devices_of_the_job(
    private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    rng, offsets = np.random.default_rng(0), np.arange(0, 31 * 70, 70)
    (tmp_path / "bench").mkdir()
    np.savez(
        tmp_path / "bench" / "job-tiny.npz",
        offsets=offsets,
        items=rng.integers(0, 40, offsets[-1]).astype(np.int32),
        labels=rng.integers(0, 2, offsets[-1]).astype(np.float32),
        n_items=40,
    )
    task = Task(tmp_path, "tiny", 30, private, 2)
    for name, system in {"engine": engine, "flower": flower}.items():
        play = system(task, tmp_path / name)
        assert [play(), play()] == [30 * 70] * 2


def test_ratios_are_of_medians_and_a_row_that_is_missing_gives_none() -> None:
    fast = Row("fast", "", "d", 1, wall=[[10.0, 30.0], [20.0]], cpu=[[40.0], [40.0]])
    slow = Row("slow", "", "d", 1, wall=[[2.0], [4.0]], cpu=[[4.0], [4.0]])
    made = Ratio("fast / slow", "fast", "slow", 5).of({"fast": fast, "slow": slow})
    assert made is not None and made["ratio"] == pytest.approx(20 / 3) and made["range"] == [5, 10]
    assert made["cpu_ratio"] == 10 and "6.67" in show([fast, slow], [made])
    assert Ratio("fast / gone", "fast", "gone", 5).of({"fast": fast}) is None


def test_the_tables_show_every_figure_in_its_column_and_a_dash_where_none_was_measured() -> None:
    fast = Row("ours", "", "ml-1m", 5000, 2, wall=[[100.0, 300.0], [200.0]], cpu=[[150.0, 50.0], [100.0]])
    peer = Row("theirs", "", "ml-1m", 100, peer=True, wall=[[4.0, 5.0, 8.0]], cpu=[[]])
    ratio = Ratio("ours / theirs", "ours", "theirs", 10)
    made = ratio.of({"ours": fast, "theirs": peer})
    assert made is not None and made["cpu_ratio"] is None
    assert (made["ratio"], made["range"]) == (40, [40, 40]), "the median of repeats, and only those that both have"
    gone = Row("gone", "", "ml-1m", 1)
    assert ratio.of({"ours": fast, "theirs": gone}) is None
    lines = show([fast, peer, gone], [made]).splitlines()
    assert lines[1].split() == ["ours", "ml-1m", "2", "200.0", "100.0", "to", "300.0", "100.0"]
    assert lines[2].split() == ["theirs", "ml-1m", "1", "5.0", "4.0", "to", "8.0", "-"]
    assert lines[5].split() == ["ours", "/", "theirs", "10", "40.00", "40.00", "to", "40.00", "-"] and len(lines) == 6


def test_every_ratio_names_rows_that_are_measured() -> None:
    options = Namespace(threads=2, devices=5000, bench=Path("b"), ray="python", pfl="python", only=None)
    names = {row.name for row in __main__.rows(options)}
    assert all({ratio.over, ratio.under} <= names for ratio in __main__.RATIOS)


def test_a_few_devices_stand_for_all_sizes() -> None:
    assert spread_out(np.array([50, 10, 40, 20, 30, 60]), 3).tolist() == [3, 2, 5]


def test_scale_is_judged_by_the_largest_population() -> None:
    row = {"interactions": 1, "evaluate_seconds": 1.0, "total_seconds": 2.0, "peak_bytes": 1 << 30}
    rows = [
        {**row, "users": n, "seconds_a_round": [s, s, s], "cpu_seconds_a_round": [s], "bytes_a_user": b}
        for n, s, b in ((10, 1.0, 9000.0), (1000, 1.1, 650.0))
    ]
    shown = show_scale(rows, 100)
    assert ": 1.10 (at most 1.2 asked)" in shown and ": 650.00 (at most 700 asked)" in shown


@pytest.mark.parametrize(
    ("system", "devices", "many"), [("ours:flower", 100, 12), ("ours:flower", 5000, 2), ("loops:hooks", 5, 2)]
)
def test_short_rounds_through_flower_are_measured_more_often(system: str, devices: int, many: int) -> None:
    assert __main__.rounds(Row("a row", system, "ml-100k", devices)) == many
