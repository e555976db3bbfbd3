"""Checkpoints are whole, durable and checked."""

from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import FedrecError
from fedrec.storage.run_folder import Checkpoint, load_checkpoint, save_checkpoint

STATE = {"item.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "first/item.weight": np.ones(3, np.float32)}


def test_what_is_saved_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for number in range(1, 5):
        save_checkpoint(tmp_path, Checkpoint(number, STATE, {"ledger": f"head {number}"}))
    found = load_checkpoint(tmp_path)
    assert found is not None and found.round == 4 and found.notes == {"ledger": "head 4"}
    assert found.state.keys() == STATE.keys() and all(np.array_equal(found.state[n], STATE[n]) for n in STATE)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["round-000003.safetensors", "round-000004.safetensors"]


def test_names_keep_their_order(tmp_path: Path) -> None:
    """Seeded noise is drawn array by array: a resumed run has to go through them as the first one did."""
    names = [f"layer{n % 7}.{n}" for n in range(30)]
    save_checkpoint(tmp_path, Checkpoint(1, {name: np.zeros(2, np.float32) for name in names}, {}))
    found = load_checkpoint(tmp_path)
    assert found is not None and list(found.state) == names


@pytest.mark.parametrize("share", [k / 16 for k in range(16)])
def test_damage_is_named_and_never_trained_on(tmp_path: Path, share: float) -> None:
    save_checkpoint(tmp_path, Checkpoint(1, STATE, {}))
    path = tmp_path / "round-000001.safetensors"
    whole = path.read_bytes()
    place = int(share * len(whole))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    with pytest.raises(FedrecError, match=r"round-000001.safetensors is damaged"):
        load_checkpoint(tmp_path)
    path.write_bytes(whole[:place])
    with pytest.raises(FedrecError, match="is damaged"):
        load_checkpoint(tmp_path)


def test_a_file_half_written_is_not_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(1, STATE, {}))
    (tmp_path / "round-000002.safetensors.part").write_bytes(b"half")
    found = load_checkpoint(tmp_path)
    assert found is not None and found.round == 1
