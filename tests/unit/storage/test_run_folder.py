"""The run folder: whose it is, what an overwrite takes away, and lines of rounds that survive a kill at any byte."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import FedrecError
from fedrec.storage.run_folder import EXACT_LABEL, RunFolder

CONFIG = "name: one\n"
ROOMS = ("exact", "checkpoint", "private", "releases", "baselines")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "one")
    made.create(CONFIG)
    return made


@pytest.fixture
def open_umask() -> Iterator[None]:
    """The least careful umask there is: what is private must be so by fedrec's own doing."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def public(folder: RunFolder) -> list[int]:
    path = folder.path / "rounds.jsonl"
    return [json.loads(line)["round"] for line in path.read_text().splitlines()] if path.exists() else []


def exact(folder: RunFolder) -> list[int]:
    return [line["round"] for line in folder.exact_rounds()]


def append(folder: RunFolder, *rounds: int) -> None:
    for number in rounds:
        folder.append_round({"round": number, "loss": None}, {"round": number, "loss": number / 10})


def test_a_new_folder_holds_its_configuration_and_empty_rooms(folder: RunFolder) -> None:
    assert folder.config.read_text() == CONFIG
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(["config.yaml", *ROOMS])
    assert [folder.exact, folder.checkpoints, folder.private] == [folder.path / name for name in ROOMS[:3]]
    assert not any(list((folder.path / name).iterdir()) for name in ROOMS) and folder.exact_rounds() == []


def test_an_existing_run_is_refused_with_the_three_ways_on_and_nothing_is_changed(folder: RunFolder) -> None:
    append(folder, 1)
    with pytest.raises(FedrecError) as refused:
        folder.create("name: other\n")
    said = str(refused.value)
    assert f"--resume {folder.path}" in said and "name=" in said and "overwrite=true" in said
    assert folder.config.read_text() == CONFIG and public(folder) == exact(folder) == [1]


def test_a_folder_without_a_configuration_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).create(CONFIG)
    assert (tmp_path / "notes.txt").read_text() == "mine" and (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("room", ROOMS)
def test_what_somebody_keeps_in_a_folder_that_is_no_run_is_not_deleted_unasked(tmp_path: Path, room: str) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "diary.txt").write_text("mine")
    with contextlib.suppress(FedrecError):
        RunFolder(tmp_path).create(CONFIG)
    assert (tmp_path / room / "diary.txt").exists()


def test_overwriting_leaves_no_result_of_the_run_before(folder: RunFolder) -> None:
    append(folder, 1, 2)
    results = ["rounds.jsonl", "metrics.json", "privacy_card.json", "model.safetensors"]
    inside = ["exact/users.npz", "exact/rounds.jsonl", "checkpoint/round-000002.safetensors", "private/values.f32"]
    for name in (*results, *inside):
        (folder.path / name).write_text("old")
    folder.create("name: new\n", overwrite=True)
    assert folder.config.read_text() == "name: new\n"
    left = [path.relative_to(folder.path) for path in folder.path.rglob("*") if path.is_file()]
    assert left == [Path("config.yaml")]


@pytest.mark.parametrize("inner", ["exact/best", "baselines/no_privacy/checkpoint"])
def test_overwriting_leaves_no_checkpoint_to_go_on_from(folder: RunFolder, inner: str) -> None:
    old = folder.path / inner / "round-000009.safetensors"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    folder.create(CONFIG, overwrite=True)
    assert not old.exists()


@pytest.mark.usefixtures("open_umask")
def test_only_the_owner_gets_in(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "one")
    folder.create(CONFIG)
    append(folder, 1)
    for name in ROOMS:
        assert mode(folder.path / name) == 0o700, name
    assert mode(folder.exact / "rounds.jsonl") == 0o600
    folder.write_json("exact/figures.json", {"loss": 0.5}, 0o600)
    assert mode(folder.exact / "figures.json") == 0o600
    folder.write_json("metrics.json", {"rounds": 1})
    assert [mode(folder.path / name) for name in ("config.yaml", "rounds.jsonl", "metrics.json")] == [0o644] * 3


@pytest.mark.usefixtures("open_umask")
def test_repairing_the_lines_does_not_open_them_to_others(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "one")
    folder.create(CONFIG)
    append(folder, 1, 2)
    folder.truncate_rounds(1)
    append(folder, 2)
    assert mode(folder.exact / "rounds.jsonl") == 0o600 and mode(folder.path / "rounds.jsonl") == 0o644


def test_json_is_written_whole_and_without_numbers_that_json_lacks(folder: RunFolder) -> None:
    folder.write_json("metrics.json", {"rounds": 3, "epsilon": None})
    assert json.loads((folder.path / "metrics.json").read_text()) == {"rounds": 3, "epsilon": None}
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("metrics.json", {"rounds": 4, "epsilon": float("inf")})
    with pytest.raises(ValueError, match="JSON"):
        folder.append_round({"round": 1}, {"round": 1, "loss": float("nan")})
    assert json.loads((folder.path / "metrics.json").read_text())["rounds"] == 3
    assert not list(folder.path.glob("*.part"))


def test_a_round_has_a_public_line_and_a_labelled_exact_one(folder: RunFolder) -> None:
    append(folder, 1, 2)
    assert json.loads((folder.path / "rounds.jsonl").read_text().splitlines()[0]) == {"round": 1, "loss": None}
    assert folder.exact_rounds() == [
        {"label": EXACT_LABEL, "round": 1, "loss": 0.1},
        {"label": EXACT_LABEL, "round": 2, "loss": 0.2},
    ]


def test_lines_beyond_the_checkpoint_are_dropped(folder: RunFolder) -> None:
    append(folder, 1, 2, 3, 4)
    assert folder.truncate_rounds(2) == 2
    assert public(folder) == exact(folder) == [1, 2]
    append(folder, 3)
    assert public(folder) == exact(folder) == [1, 2, 3]


def test_keeping_all_rounds_changes_no_byte(folder: RunFolder) -> None:
    append(folder, 1, 2, 3)
    paths = [folder.path / "rounds.jsonl", folder.exact / "rounds.jsonl"]
    before = [path.read_bytes() for path in paths]
    assert folder.truncate_rounds(3) == 3 and [path.read_bytes() for path in paths] == before
    assert folder.truncate_rounds(7) == 3 and [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("torn", ['{"round"', '{"round": 3, "loss": 0.', "\x00\x00", '{"loss": 1}', "[3]", '"3"'])
def test_a_torn_line_does_not_count_and_goes(folder: RunFolder, torn: str) -> None:
    append(folder, 1, 2)
    for path in (folder.path / "rounds.jsonl", folder.exact / "rounds.jsonl"):
        with path.open("a") as file:
            file.write(torn)
    assert folder.truncate_rounds(3) == 2
    append(folder, 3)
    assert public(folder) == exact(folder) == [1, 2, 3]


def test_a_missing_file_means_that_no_round_has_its_lines(folder: RunFolder) -> None:
    assert folder.truncate_rounds(5) == 0
    append(folder, 1)
    (folder.path / "rounds.jsonl").unlink()
    assert folder.truncate_rounds(1) == 0


@settings(max_examples=40, deadline=None)
@given(rounds=st.integers(0, 5), cut=st.integers(0, 400), last=st.integers(0, 6))
def test_a_cut_at_any_byte_of_the_exact_lines_keeps_the_whole_lines_before_it(
    tmp_path_factory: pytest.TempPathFactory, rounds: int, cut: int, last: int
) -> None:
    """What counts is the shorter of the two files; what is kept is whole, in order, and within the checkpoint."""
    folder = RunFolder(tmp_path_factory.mktemp("cut"))
    folder.create(CONFIG)
    append(folder, *range(1, rounds + 1))
    path = folder.exact / "rounds.jsonl"
    content = path.read_bytes()[:cut] if path.exists() else b""
    path.write_bytes(content)
    whole = content.count(b"\n") + content.endswith(b"}")
    assert folder.truncate_rounds(last) == min(whole, last)
    assert exact(folder) == list(range(1, min(whole, last) + 1))


@pytest.mark.parametrize("done", [0, 2])
def test_a_kill_between_the_two_lines_of_a_round_repeats_neither(folder: RunFolder, done: int) -> None:
    """The checkpoint of round `done + 1` is there, its public line too, its exact line not yet."""
    append(folder, *range(1, done + 1))
    with (folder.path / "rounds.jsonl").open("a") as file:
        file.write(json.dumps({"round": done + 1}) + "\n")
    assert folder.truncate_rounds(done + 1) == done
    append(folder, done + 1)
    assert public(folder) == exact(folder) == list(range(1, done + 2))


def test_without_a_checkpoint_no_line_stays(folder: RunFolder) -> None:
    append(folder, 1)
    assert folder.truncate_rounds(0) == 0
    assert public(folder) == exact(folder) == []
