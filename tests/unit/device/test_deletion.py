"""Forgetting on a device: what was learned goes, and the private vector is found again from what is left, at once."""

from pathlib import Path

import numpy as np
import pytest

from fedrec.cli.client import run
from fedrec.device import saved_state
from fedrec.device import saved_state as deletion
from fedrec.device.device import Device
from fedrec.device.home import Home
from fedrec.device.saved_state import expire, forget, rebuild
from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from fedrec.recommend.numpy_ranker import RankerFactory
from tests.end_to_end.test_grpc_service import ITEMS, home_with
from tests.end_to_end.test_real_devices import train

LEFT = np.array([0, 1, 3, 4, 5])


def learned(home: Home) -> dict[str, np.ndarray]:
    """The private arrays after training, which a test can tell from all others."""
    store, (message, node) = home.store(), model_of(home)
    arrays = {
        n: np.full_like(a, 7) for n, a in RankerFactory(node, ITEMS, message.arrays).model.private_arrays().items()
    }
    saved_state.DevicePrivate(store, "r").save(0, arrays, 3)
    store.close()
    return arrays


def model_of(home: Home) -> tuple:
    import json

    message = saved_state.model(home.store())
    assert message is not None
    return message, json.loads(message.header["experiment"])["model"]


@pytest.mark.parametrize("name", ["mf", "neumf"])
def test_the_private_vector_is_that_of_somebody_who_never_used_the_item(tmp_path: Path, name: str) -> None:
    home = home_with(tmp_path / "h", name)
    before, store = learned(home), home.store()
    assert forget(store, "i2") == (1, True)
    found, (message, node) = saved_state.newest_private(store), model_of(home)
    assert found.keys() == before.keys()
    held_out = LEFT[:-2]  # what a round would train on: the last two are held out, as in the simulation
    expected = RankerFactory(node, ITEMS, message.arrays).private(held_out)
    for array_name, array in found.items():
        assert array.dtype == np.float32 and array.shape == before[array_name].shape
        np.testing.assert_allclose(array, expected[array_name], atol=1e-6)
        assert np.abs(array - before[array_name]).min() > 0
    scores = RankerFactory(node, ITEMS, message.arrays, found).ranker(held_out).scores()
    nobody = RankerFactory(node, ITEMS, message.arrays).ranker(LEFT[:0]).scores()
    assert scores[held_out].mean() > nobody[held_out].mean()  # it learned what is left


def test_everything_leaves_no_vector_and_an_item_that_is_not_there_changes_none(tmp_path: Path) -> None:
    home = home_with(tmp_path / "h", "mf")
    before, store = learned(home), home.store()
    assert forget(store, "i39") == (0, False)
    assert np.array_equal(saved_state.newest_private(store)["user.weight"], before["user.weight"])
    assert forget(store) == (6, False)
    assert saved_state.newest_private(store) == {}


def test_at_interaction_level_no_update_may_see_a_vector_without_noise(tmp_path: Path) -> None:
    home = home_with(tmp_path / "h", "mf")
    learned(home)
    store, message = home.store(), model_of(home)[0]
    document = load(["model=mf", "dataset=synthetic", "privacy=interaction"]).experiment.document
    message.header["experiment"] = document
    saved_state.save_model(store, message)
    assert forget(store, "i2") == (1, False) and saved_state.newest_private(store) == {}


@pytest.mark.parametrize("name", ["ease", "popularity"])
def test_a_model_without_a_private_vector_has_none_to_find(tmp_path: Path, name: str) -> None:
    store = home_with(tmp_path / "h", name).store()
    assert forget(store, "i2") == (1, False) and saved_state.newest_private(store) == {}


def test_who_forgets_meanwhile_finds_it_again_and_no_older_history_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_with(tmp_path / "h", "mf")
    store, real = home.store(), deletion._found

    def interrupted(*arguments: object) -> dict:
        found = real(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(deletion, "_found", real)
        other = home.store()
        other.forget()  # killed before it could find anything again
        other.close()
        return found

    monkeypatch.setattr(deletion, "_found", interrupted)
    assert forget(store, "i2") == (1, False) and saved_state.newest_private(store) == {}


def test_a_model_of_torch_alone_trains_its_vector_again(tmp_path: Path) -> None:
    stores = [home_with(tmp_path / name, "content", events).store() for name, events in (("a", 6), ("b", 5))]
    assert forget(stores[0], "i5") == (1, True) and rebuild(stores[1])
    found = [saved_state.newest_private(store)["user.weight"] for store in stores]
    assert np.array_equal(found[0], found[1]) and found[0].any()


def test_before_the_first_model_forgetting_forgets(tmp_path: Path) -> None:
    store = Home(tmp_path).store()
    store.log_event("a", at=1.0)
    assert not rebuild(store) and forget(store, "a") == (1, False)


def test_the_next_round_starts_from_what_was_found_and_is_still_answered_once(tmp_path: Path) -> None:
    from tests.support.devices import Village

    village = Village(tmp_path)
    home, request = village.homes[0], train(village)
    Device(home).answer(request)
    store = home.store()
    first = store.history()[0].item
    run(["forget", "--item", first, "--home", str(home.path)])
    found = saved_state.newest_private(store)
    assert found and np.array_equal(
        saved_state.DevicePrivate(store, request.header["run"]).load(0, 2)["user.weight"], found["user.weight"]
    )
    second = train(village, number=2)
    assert Device(home).answer(second).header["count"] == 1
    assert not np.array_equal(saved_state.newest_private(store)["user.weight"], found["user.weight"])


def test_retention_is_that_of_the_policy_and_finds_the_vector_again(tmp_path: Path) -> None:
    home = home_with(tmp_path / "h", "mf")
    store = home.store()
    for number in range(4):
        store.log_event(f"i{20 + number}")
    assert expire(home, store) == 0
    for wrong in ("0", "true", '"a year"'):
        home.policy.write_text(f"[store]\nretention_days = {wrong}\n")
        with pytest.raises(FedrecError, match="a number of days above 0"):
            expire(home, store)
    home.policy.write_text("[store]\nretention_days = 2.5\n")
    assert expire(home, store) == 6 and len(store.history()) == 4 and saved_state.newest_private(store)
