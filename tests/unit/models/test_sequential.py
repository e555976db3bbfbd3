"""Sequential models: what windows hold, what a model may see, and that many devices at once are the loop over each."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.sequence_sgd import TAKEN, FedSGDSequences
from fedrec.data.interactions import DeviceTable
from fedrec.errors import FedrecError, RefusedError
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.federated.node import explain_sequential
from fedrec.federated.state import load_released_state
from fedrec.messages import Arrays, ModelUpdate
from fedrec.models.sasrec import SASRec
from fedrec.models.sequential import Windows
from fedrec.privacy.contributions import CohortUpdates
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Aggregate, Mechanism
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.release import total_of
from fedrec.rng import CounterRNG
from fedrec.training import sequences
from fedrec.training.batches import CohortData, Histories, open_draws
from fedrec.training.sequences import Draws, SequenceEngine, losses
from fedrec.training.vectorized.updates import Contributions
from tests.support.tiny import SMALL, catalogue, session, small

ITEMS, SEED, ROUND, K = 30, 3, 2, 7
SIZES = (1, 0, 5, 40, 2, 12, 6, 9)
SETTINGS = FedSGDSequences(negatives=K)
TINY = ["model=sasrec", "model.dim=8", "model.window=6", "model.blocks=1", "algorithm.negatives=5", "rounds=3"]


def table() -> DeviceTable:
    """Devices of one item, of none, of more than a window holds; items repeat."""
    rng = np.random.default_rng(1)
    start = np.cumsum([0, *SIZES])
    values = np.ones(start[-1], np.float32)
    return DeviceTable(start, start[1:], start[1:], rng.integers(0, ITEMS, start[-1]).astype(np.int32), values, ITEMS)


def made(dtype: torch.dtype = torch.float64, heads: int = 2) -> SASRec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = SASRec(catalogue(ITEMS), dim=8, window=5, blocks=2, heads=heads)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return model.to(dtype)


def windows_of(users: list[int], negatives: int = K) -> Windows:
    histories = Histories.at(table(), np.array(users))
    return Draws(5, negatives, ITEMS).windows(histories, open_draws(SEED, ROUND))


def loop(mechanism: Mechanism) -> list[Arrays]:
    """What each device contributes by itself, in double precision."""
    model, devices = made(), table()
    sent, context = model.shared_arrays(), RoundContext(ROUND, SEED, mechanism)
    return [SETTINGS.contribute(model, sent, devices[u], {}, context).update.arrays for u in range(len(devices))]


def at_once(mechanism: Mechanism) -> Contributions[CohortUpdates]:
    model = made()
    chosen = CohortData(table(), np.arange(len(SIZES)))
    return SequenceEngine(model, K).train(model.shared_arrays(), chosen, {}, mechanism, (SEED, ROUND))


def check_close(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], within: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=within * max(np.abs(other[name]).max(), 1e-3))


def check_same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    """Check that whole numbers are equal, but for the few that lie at a half and fall to another side by rounding."""
    assert one.keys() == other.keys()
    for name in one:
        apart = np.abs(one[name] - other[name])
        assert apart.max() <= 1 and (apart != 0).mean() < 1e-3


def losses_of_each() -> np.ndarray:
    return losses(made(), windows_of(list(range(len(SIZES))))).detach().numpy()


def test_a_window_is_a_stretch_of_the_history_in_order() -> None:
    devices, found = table(), windows_of(list(range(len(SIZES))))
    assert found.real.tolist() == [min(max(size - 1, 0), 5) for size in SIZES]
    for user, (items, real) in enumerate(zip(found.items, found.real.tolist(), strict=True)):
        history = devices[user].history
        stretches = [history[start : start + real + 1].tolist() for start in range(len(history) - real)]
        assert not real or items[: real + 1].tolist() in stretches


def test_windows_reach_every_place_of_a_long_history() -> None:
    histories = Histories.at(table(), np.array([3]))
    draws = Draws(5, 1, ITEMS)
    found = {tuple(draws.windows(histories, CounterRNG(0, number)).items[0].tolist()) for number in range(800)}
    history = table()[3].history.tolist()
    assert found == {tuple(history[start : start + 6]) for start in range(35)}


def test_draws_are_the_same_alone_and_in_company() -> None:
    together = windows_of(list(range(len(SIZES))))
    for user in range(len(SIZES)):
        alone = windows_of([user])
        width = int(alone.real[0]) + 1
        assert torch.equal(alone.negatives[0], together.negatives[user])
        assert SIZES[user] == 0 or torch.equal(alone.items[0, :width], together.items[user, :width])


def test_negatives_are_uniform_whatever_a_device_used() -> None:
    """No item is spared: a sampler that avoids a held-out item would give it away."""
    many = windows_of([3], 6000).negatives[0]
    share = torch.bincount(many, minlength=ITEMS) / len(many)
    assert float(share.min()) > 0.6 / ITEMS and float(share.max()) < 1.4 / ITEMS


@pytest.mark.parametrize("change", range(1, 6))
def test_a_position_sees_nothing_that_comes_later(change: int) -> None:
    model, vectors = made(), torch.randn(5, 8, dtype=torch.float64)
    before = model.states(vectors)
    other = vectors.clone()
    other[change - 1] += 1.0
    after = model.states(other)
    assert torch.equal(before[: change - 1], after[: change - 1]) and not torch.equal(before, after)


def test_what_fills_a_window_counts_for_nothing() -> None:
    model, full = made(), windows_of([4, 2])  # two items and five, in lines of six
    items = full.items.clone()
    items[0, 2:], items[1, 5:] = 9, 11
    assert torch.equal(losses(model, full), losses(model, replace(full, items=items)))
    assert not bool(losses(model, replace(full, real=torch.zeros(2, dtype=torch.long))).any())


def test_the_loss_is_the_cross_entropy_over_the_catalogue_where_all_items_are_negatives() -> None:
    """Every item once among the negatives but the right one, which does not count: exactly the softmax."""
    model, drawn = made(), windows_of([5])
    found = losses(model, replace(drawn, negatives=torch.arange(ITEMS)[None]))
    states = model.states(model.item(drawn.items[0, :5]))
    logits = states @ model.item.weight.T + model.item_bias.weight[:, 0]
    expected = torch.nn.functional.cross_entropy(logits, drawn.items[0, 1:6], reduction="sum")
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-12)


def test_scores_are_the_logits_after_the_last_window() -> None:
    model, history = made(), torch.from_numpy(table()[3].history.astype(np.int64))
    expected = model.states(model.item(history[-5:]))[-1] @ model.item.weight.T + model.item_bias.weight[:, 0]
    assert torch.allclose(model.scores(history), expected)
    assert torch.equal(model.scores(history[:0]), model.item_bias.weight[:, 0])


def test_many_devices_are_ranked_for_as_each_alone() -> None:
    model = made()
    histories = [torch.from_numpy(device.history.astype(np.int64)) for device in table()]
    alone = torch.stack([model.scores(history) for history in histories])
    assert torch.allclose(model.scores_many(histories, {}), alone, atol=1e-12)


@pytest.mark.parametrize("part", [3, 64])
def test_the_sum_of_many_is_the_sum_of_each(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(sequences, "PART", part)
    slow, fast = loop(NoPrivacy()), at_once(NoPrivacy())
    summed = {name: np.sum([one[name] for one in slow], axis=0) for name in slow[0]}
    check_close(fast.stack.weighted_sum(np.ones(len(SIZES))).arrays, summed, 1e-10)
    model, devices = made(), table()
    context = RoundContext(ROUND, SEED, NoPrivacy())
    for user in range(len(SIZES)):
        alone = SETTINGS.contribute(model, made().shared_arrays(), devices[user], {}, context)
        assert fast.loss[user] == pytest.approx(alone.loss) and fast.examples[user] == alone.examples


@pytest.mark.parametrize("part", [3, 64])
def test_each_of_many_is_what_it_sends_alone(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(sequences, "PART", part)
    slow, fast = loop(NoPrivacy()), at_once(NoPrivacy())
    squares = fast.stack.squared_norms()
    check_close({"loss": fast.loss}, {"loss": losses_of_each()}, 1e-10)
    for user, expected in enumerate(slow):
        check_close(fast.stack.update_of(user).arrays, expected, 1e-10)
        for name, array in expected.items():
            assert squares[name][user] == pytest.approx(float(np.square(array).sum()), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("clipping", ["whole", "split"])
def test_at_user_level_each_device_is_clipped_by_itself(clipping: str) -> None:
    mechanism = UserLevel(clip=0.05, clipping=clipping, noise_multiplier=1.0, randomness="seeded")
    fast = mechanism.privatize_cohort(at_once(mechanism).stack, mechanism.random(1))
    made_ = [ModelUpdate(arrays, 1) for arrays in loop(mechanism)]
    slow = total_of(mechanism.privatize_update(one, mechanism.random(1)) for one in made_)
    assert sum(one.norm() > 0.05 for one in made_) >= 5
    check_same(fast.arrays, slow.arrays)


def test_only_rows_that_a_device_touches_change() -> None:
    drawn, arrays = windows_of([4]), loop(NoPrivacy())[4]
    items = drawn.items[0, : int(drawn.real[0]) + 1]
    touched = np.union1d(items.numpy(), drawn.negatives[0].numpy())
    changed = np.flatnonzero(np.abs(arrays["item.weight"]).sum(1))
    assert len(touched) < ITEMS and np.isin(changed, touched).all()


def test_a_small_step_along_what_devices_send_lowers_their_loss() -> None:
    model, drawn = made(), windows_of(list(range(len(SIZES))))
    before = float(losses(model, drawn).sum())
    arrays = at_once(NoPrivacy()).stack.weighted_sum(np.ones(len(SIZES))).arrays
    sent = model.shared_arrays()
    model.load({name: (array + 1e-4 * arrays[name]).astype(array.dtype) for name, array in sent.items()})
    assert float(losses(model, drawn).sum()) < before


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("privacy", ["privacy=none", "privacy=user"])
def test_a_run_gives_the_same_with_either_engine(tmp_path: Path, engine: str, privacy: str) -> None:
    more = ["privacy.randomness=seeded", "privacy.clip=0.1"] if privacy == "privacy=user" else []
    experiment, dataset = small(*TINY, f"engine={engine}", *more, base=[*SMALL, privacy])
    reason = explain_sequential(experiment, experiment.build_model(dataset.catalogue))
    assert reason == ("engine=reference" if engine == "reference" else None)
    with session(experiment, dataset, tmp_path / engine, LocalTransport(2)) as opened:
        reports = list(run(opened))
        state = load_released_state(opened)[1]
    plain = experiment.varied({"engine": "reference" if engine == "auto" else "auto"})
    with session(plain, dataset, tmp_path / "other", LocalTransport(3), run="other") as opened:
        assert [r.loss for r in run(opened)] == pytest.approx([r.loss for r in reports], rel=1e-5)
        other = load_released_state(opened)[1]
    assert state[TAKEN].tolist() == [3.0]
    check_close(state, other, 2e-3)


def test_adam_is_torchs_adam() -> None:
    """Against torch.optim.Adam on the same gradients, with a learning rate that stays."""
    algorithm = FedSGDSequences(server_learning_rate=0.01, warm_up=0)
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = torch.optim.Adam([weights], lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    first = np.array([1.0, -2.0, 0.5], np.float32)
    state = {"w": first, "first/w": np.zeros(3, np.float32), "second/w": np.zeros(3, np.float32)}
    state[TAKEN] = np.zeros(1, np.float32)
    for gradient in ([0.3, -1.0, 0.0], [0.1, 2.0, 0.0], [-0.5, 0.5, 1e-3]):
        weights.grad = torch.tensor(gradient)
        optimizer.step()
        state = algorithm.step(state, Aggregate({"w": -np.array(gradient, np.float32) * 4}, 4.0))
        np.testing.assert_allclose(state["w"], weights.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [replace(SETTINGS, warm_up=4, decay_over=20, server_learning_rate=1.0).rate(step) for step in range(21)]
    assert rates[0] == pytest.approx(0.2) and rates[20] == 0.0 and max(rates) == rates[4]
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert [replace(SETTINGS, warm_up=0).rate(step) for step in (0, 1000)] == [0.004, 0.004]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, ITEMS - 1), max_size=20), st.integers(0, 1000))
def test_any_history_gives_finite_numbers_and_fits_the_window(history: list[int], number: int) -> None:
    own = Histories(
        np.array([0]), np.array([history], np.int32), np.ones((1, len(history)), np.float32), np.array([len(history)])
    )
    found = Draws(5, K, ITEMS).windows(own, CounterRNG(number))
    assert found.items.shape[1] <= 6 and int(found.real[0]) == min(max(len(history) - 1, 0), 5)
    assert bool(torch.isfinite(losses(made(), found)).all())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"negatives": 0}, "algorithm.negatives=0"),
        ({"decay_over": 0}, "algorithm.decay_over=0"),
        ({"server_learning_rate": 0.0}, "algorithm.server_learning_rate"),
        ({"tau": float("nan")}, "algorithm.tau"),
        ({"beta2": 1.0}, "algorithm.beta2"),
    ],
)
def test_settings_that_make_no_sense_are_named(fields: dict[str, float], words: str) -> None:
    with pytest.raises(FedrecError, match=words):
        FedSGDSequences(**fields)  # type: ignore[arg-type]
    with pytest.raises(FedrecError, match="heads=3 must divide dim=8"):
        SASRec(catalogue(ITEMS), dim=8, heads=3)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["privacy=interaction"], "nothing bounds what one interaction changes"),
        (["privacy=gateway"], "can't train the users of a gateway as one"),
        (["algorithm=fedavg", "privacy=none"], "works for TrainableRecommender, not for SASRec"),
    ],
)
def test_pairs_without_an_argument_are_refused_by_name(overrides: list[str], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        small(*TINY, *overrides, base=SMALL)


def test_a_device_refuses_plain_gradients_where_noise_on_it_is_promised() -> None:
    with pytest.raises(RefusedError, match="asks for DP-SGD"):
        loop(InteractionLevel(noise_multiplier=1.0))
