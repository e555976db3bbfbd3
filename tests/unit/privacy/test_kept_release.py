"""What every round released lies in the run folder, whole, and tells nothing that the released numbers don't."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from fedrec.errors import FedrecError
from fedrec.federated.loop import run
from fedrec.federated.state import ServerState, load_released_state
from fedrec.privacy.grid import Grid
from fedrec.privacy.kept_release import METADATA, KeptRelease, decode_release, encode_release, read_releases
from fedrec.privacy.mechanisms.user_adaptive import BIT
from fedrec.privacy.release import Release
from fedrec.storage.run_folder import RunFolder, load_checkpoint
from fedrec.testing.mechanisms import vector
from tests.support.tiny import SMALL, session, small

pytestmark = pytest.mark.filterwarnings("ignore")
ARRAYS = {"a": np.array([[3, -70_000], [0, 2**40]]), "b": np.zeros(0, np.int64), "c": np.array([-1])}
GRID = Grid(12, 0.3)
COUNTS = [*SMALL, "model=popularity", "privacy.epsilon=2"]
TRAINED = [*SMALL, "model=mf", "model.dim=2", "rounds=3"]


def played(folder: Path, overrides: list[str], keep_releases_mb: float = 100.0) -> list[KeptRelease]:
    """Play a run and return what its folder keeps."""
    experiment, dataset = small(base=overrides)
    with session(experiment, dataset, folder) as opened:
        list(run(replace(opened, folder=RunFolder(folder, keep_releases_mb))))
    return list(read_releases(RunFolder(folder).kept_releases()))


def test_a_file_holds_the_numbers_and_their_grid(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(encode_release(7, Release(ARRAYS, 5, GRID)))
    read = decode_release(path)
    assert (read.round, read.grid, list(read.arrays)) == (7, GRID, list(ARRAYS))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read.arrays[name], array)
        np.testing.assert_allclose(read.values()[name], array * 0.3 / 4096, rtol=1e-6)


def test_how_many_took_part_is_not_in_it() -> None:
    """The width of a packed number follows from the numbers, not from the count that bounds them on the way."""
    one, many = (encode_release(1, Release(ARRAYS, count, GRID)) for count in (1, 10**6))
    assert one == many


def test_the_file_says_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(encode_release(7, Release(ARRAYS, 5, GRID)))
    with safe_open(path, framework="numpy") as file:
        said = json.loads(file.metadata()[METADATA])
        assert set(file.metadata()) == {METADATA} and set(file.keys()) == set(ARRAYS)
    assert set(said) == {"round", "bits", "clip", "arrays"}
    assert all(set(about) == {"shape", "largest"} for about in said["arrays"].values())


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: b.replace(b"12", b"99")])
def test_what_is_no_release_is_named(damage: Any, tmp_path: Path) -> None:
    path = tmp_path / "round-000001.safetensors"
    path.write_bytes(damage(encode_release(1, Release(ARRAYS, 5, GRID))))
    with pytest.raises(FedrecError, match=r"round-000001.safetensors is not the release of a round"):
        decode_release(path)


@pytest.mark.parametrize("privacy", ["user", "user_local", "gateway", "interaction"])
def test_what_is_kept_of_a_statistic_is_the_model(privacy: str, tmp_path: Path) -> None:
    (kept,) = played(tmp_path, [*COUNTS, f"privacy={privacy}"])
    saved = load_checkpoint(RunFolder(tmp_path).checkpoints)
    assert saved is not None
    np.testing.assert_array_equal(kept.values()["counts"], saved.state["counts"])
    assert kept.arrays["counts"].any()


@pytest.mark.parametrize("privacy", ["user", "user_adaptive", "user_local", "banded"])
def test_every_round_of_a_training_is_kept_on_the_grid_of_its_mechanism(privacy: str, tmp_path: Path) -> None:
    kept = played(tmp_path, [*TRAINED, f"privacy={privacy}", "cohort.size=20"])
    assert [release.round for release in kept] == [1, 2, 3]
    for release in kept:
        assert release.arrays["item.weight"].shape == (60, 2)
        spread = release.arrays["item.weight"].std()
        assert spread > 50, "noise of many steps"
    assert (BIT in kept[0].arrays) == (privacy == "user_adaptive")
    assert (len({release.grid.clip for release in kept}) > 1) == (privacy == "user_adaptive")


def test_the_model_follows_from_what_is_kept(tmp_path: Path) -> None:
    """Plain averaging: the sum of all releases over the expected cohort is how far the model moved."""
    overrides = [*TRAINED, "privacy=user", "algorithm=fedavg", "algorithm.server_learning_rate=1.0"]
    experiment, dataset = small(base=overrides)
    with session(experiment, dataset, tmp_path) as opened:
        before = experiment.algorithm.init(experiment.build_model(dataset.catalogue), dataset.catalogue)
        list(run(opened))
        after = load_released_state(opened)[1]
    kept = read_releases(RunFolder(tmp_path).kept_releases())
    moved = sum(release.values()["item.weight"].astype(np.float64) for release in kept) / 40
    np.testing.assert_allclose(after["item.weight"] - before["item.weight"], moved, atol=1e-5)


@pytest.mark.parametrize(("privacy", "limit"), [("none", 100.0), ("user", 0.0), ("user", 0.001)])
def test_nothing_is_kept_without_noise_nor_beyond_the_limit(privacy: str, limit: float, tmp_path: Path) -> None:
    assert played(tmp_path, [*TRAINED, f"privacy={privacy}"], limit) == []


def test_only_the_owner_reads_them_until_they_are_given_away(tmp_path: Path) -> None:
    played(tmp_path, [*COUNTS, "privacy=user"])
    (path,) = RunFolder(tmp_path).kept_releases()
    assert path.stat().st_mode & 0o777 == 0o600 and path.name == "round-000001.safetensors"
    assert not list(path.parent.glob("*.part"))


def test_what_was_kept_of_a_round_that_left_no_checkpoint_goes(tmp_path: Path) -> None:
    """Killed between the release and the checkpoint: the round is lost, and its numbers were never a release."""
    played(tmp_path, [*TRAINED, "privacy=user", "rounds=2"])
    folder = RunFolder(tmp_path)
    folder.keep_release(3, encode_release(3, Release(ARRAYS, 1, GRID)))
    folder.truncate_rounds(2)
    assert [path.name for path in folder.kept_releases()] == ["round-000001.safetensors", "round-000002.safetensors"]


def test_a_round_that_releases_nothing_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is not finite loses its round: what was drawn for it is not shown either."""
    from fedrec.federated import loop

    step = loop._server_step

    def broken(*arguments: Any) -> Any:
        stepped, release = step(*arguments)
        lost = {name: array * np.nan for name, array in stepped.algorithm_state.items()}
        return ServerState(lost, stepped.mechanism_state), release

    monkeypatch.setattr(loop, "_server_step", broken)
    assert played(tmp_path, [*TRAINED, "privacy=user"]) == []


def test_a_release_of_one_update_is_kept_as_it_is(tmp_path: Path) -> None:
    from fedrec.privacy.release import on_a_grid

    assert on_a_grid(vector(np.ones(6))) is None
    assert on_a_grid(release := Release(ARRAYS, 1, GRID)) is release


@pytest.mark.parametrize(
    "said",
    [
        {"round": "1"},
        {"bits": 12.5},
        {"clip": "1"},
        {"arrays": []},
        {"arrays": {"w": {"shape": [float("inf")], "largest": 3}}},
        {"arrays": {"w": {"shape": [10**12], "largest": 3}}},
        {"arrays": {"w": {"shape": [7], "largest": "3"}}},
        {"arrays": {"v": {"shape": [7], "largest": 3}}},
    ],
)
def test_nor_is_one_whose_description_was_edited(said: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "round-000001.safetensors"
    about = {"round": 1, "bits": 12, "clip": 1.0, "arrays": {"w": {"shape": [7], "largest": 3}}}
    path.write_bytes(save({"w": np.zeros(3, np.uint64)}, {METADATA: json.dumps(about)}))
    assert decode_release(path).round == 1
    path.write_bytes(save({"w": np.zeros(3, np.uint64)}, {METADATA: json.dumps({**about, **said})}))
    with pytest.raises(FedrecError, match="is not the release of a round"):
        decode_release(path)
