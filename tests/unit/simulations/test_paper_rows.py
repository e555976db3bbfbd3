"""The commands that set methods side by side: their means, intervals, ratios and gaps, on results made by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedrec.cli.study import run
from fedrec.evaluation.per_user import PerUserResults
from fedrec.evaluation.summary import intervals
from fedrec.experiment.experiment import Experiment
from fedrec.models.pfedrec import PFedRec
from fedrec.study import frontier
from fedrec.study import frontier as seeds
from fedrec.training.vectorized.updates import Contributions, StackedUpdates
from simulations.paper import central, cold_start, pfedrec_leak
from tests.support.tiny import FREE, small

USERS = 40


def of(ndcg: list[float] | np.ndarray, hr: float = 0.5, sampled: float = 0.75) -> PerUserResults:
    """Return per-user rows with these NDCG@10, all else constant."""
    values = np.asarray(ndcg, np.float64)
    return {
        "user": np.arange(len(values)),
        "full_ndcg@10": values,
        "full_hr@10": np.full(len(values), hr),
        "sampled_ndcg@10": np.full(len(values), sampled),
        "sampled_hr@10": np.full(len(values), sampled + 0.125),
    }


def spread(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, USERS)


def test_a_ratio_that_every_user_has_has_no_width_and_both_means_have_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Users are drawn in pairs: intervals of the two means alone would give the ratio a width."""
    base = spread()
    found = central.compared([of(base / 2)], [of(base)])
    assert found["ratio"] == pytest.approx([0.5, 0.5, 0.5], rel=1e-12)
    one = intervals(base[:, None])[0]
    assert found["central"] == pytest.approx([one.mean, one.low, one.high])
    assert found["federated"] == pytest.approx([one.mean / 2, one.low / 2, one.high / 2])
    assert found["seeds"] == [[pytest.approx(base.mean() / 2)], [pytest.approx(base.mean())]]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"federated  NDCG@10 {one.mean / 2:.4f} ({one.low / 2:.4f} to {one.high / 2:.4f})"
    assert printed[2] == "federated / central 0.500 (0.500 to 0.500)"


def test_the_ratio_is_of_means_and_its_interval_is_that_of_the_delta_method() -> None:
    a, b = spread(1), spread(2)
    mean, low, high = central.compared([of(a)], [of(b)])["ratio"]  # type: ignore[misc]
    assert mean == pytest.approx(a.mean() / b.mean())
    error = np.std(a - mean * b, ddof=1) / b.mean() / np.sqrt(USERS)
    assert (low, high) == (pytest.approx(mean - 1.96 * error, rel=0.05), pytest.approx(mean + 1.96 * error, rel=0.05))


def test_users_are_averaged_over_seeds_before_anything_is_drawn() -> None:
    """Two seeds that are off by as much in opposite ways: no width is left, which rows counted twice would have."""
    wobble = spread() - 0.5
    found = seeds.compared({"": [of(0.5 + wobble), of(0.5 - wobble)], "popularity": [of(np.full(USERS, 0.2))] * 2})
    assert found["ours"]["ndcg@10"] == pytest.approx([0.5, 0.5, 0.5])
    assert found["ours"]["ours_minus"] == [0, 0, 0]
    assert found["ours"]["seeds"] == pytest.approx([0.5 + wobble.mean(), 0.5 - wobble.mean()])
    assert found["popularity"]["ours_minus"] == pytest.approx([0.3, 0.3, 0.3])
    assert found["popularity"]["hr@10"] == 0.5
    assert (found["popularity"]["sampled_ndcg@10"], found["popularity"]["sampled_hr@10"]) == (0.75, 0.875)


def test_a_gap_is_paired_by_user() -> None:
    base = spread()
    found = seeds.compared({"": [of(base + 0.05)], "ease": [of(base)]})
    assert found["ease"]["ours_minus"] == pytest.approx([0.05, 0.05, 0.05])
    assert found["ours"]["ndcg@10"][2] - found["ours"]["ndcg@10"][1] > 0.05  # type: ignore[index]


def test_a_study_keeps_the_rows_of_each_method_over_all_seeds(tmp_path: Path) -> None:
    rows = seeds.study(
        ["dataset=synthetic", "dataset.users=30", "dataset.items=40", "dataset.interactions=600", "model=popularity",
         "privacy=none", "evaluation.baselines=[popularity]", f"output={tmp_path / 'runs'}"],
        [3, 4], "tried",
    )  # fmt: skip
    assert {name: len(tables) for name, tables in rows.items()} == {"": 2, "popularity": 2}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tried-3", "tried-4"]
    for ours, same in zip(rows[""], rows["popularity"], strict=True):
        assert ours["user"].tolist() == same["user"].tolist()


def test_a_line_of_the_frontier_says_what_its_tables_hold() -> None:
    wobble = spread() - 0.5
    text, record = frontier.line(4, [of(0.5 + wobble, hr=0.2), of(0.5 - wobble, hr=0.4)])
    width = abs(wobble.mean())
    assert text.startswith("epsilon 4: sampled_hr@10 0.8750 (0.8750 to 0.8750; seeds +-0.0000); sampled_ndcg@10 0.7500")
    assert "; full_hr@10 0.3000 (0.3000 to 0.3000; seeds +-0.1000); " in text
    assert text.endswith(f"full_ndcg@10 0.5000 (0.5000 to 0.5000; seeds +-{width:.4f})")
    assert record["epsilon"] == 4 and record["full_hr@10"] == pytest.approx([0.3] * 3)


def test_without_privacy_the_frontier_names_no_epsilon() -> None:
    text, record = frontier.line(float("inf"), [of(spread())])
    assert text.startswith("epsilon inf: ") and record["epsilon"] is None


@pytest.mark.parametrize(
    ("asked", "epsilons", "seeds_of_each"),
    [
        ("privacy=user --epsilons 1,8 --seeds 4,5", [1, 8], [4, 5]),
        ("privacy=none --epsilons 1,8 --seeds 4", [float("inf")], [4]),
    ],
)
def test_the_frontier_tries_each_epsilon_with_each_seed(
    asked: str,
    epsilons: list[float],
    seeds_of_each: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tried = list[tuple[float, int, str]]()

    def trial(settings: object, part: str) -> PerUserResults:
        document = settings.document  # type: ignore[attr-defined]
        tried.append((document["privacy"].get("epsilon", float("inf")), document["seed"], part))
        return of([0.5])

    monkeypatch.setattr(frontier, "trial", trial)
    command = ["frontier", "model=popularity", *asked.split(), "--part", "validation"]
    run(command)
    assert tried == [(epsilon, seed, "validation") for epsilon in epsilons for seed in seeds_of_each]
    lines = capsys.readouterr().out.splitlines()
    for said, epsilon in zip(lines[::2], epsilons, strict=True):
        claimed = f"epsilon {epsilon:.2f} (unit: one user; add-remove; delta 1e-05; trusts the server"
        assert said.startswith("no privacy" if np.isinf(epsilon) else claimed)
    run([*command, "--json"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["epsilon"] for record in records] == [None if np.isinf(e) else e for e in epsilons]


def test_training_on_the_pool_stops_after_patience_and_keeps_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation is best in the second epoch; five worse ones end it, and the test is that of the second."""
    experiment, dataset = small("model=mf", "model.dim=2")
    played, valid = list[int](), [0.1, 0.3, 0.2, 0.3, 0.1, 0.1, 0.1, 0.9]
    monkeypatch.setattr(central, "epoch", lambda *_: played.append(1))

    def ranked(model: object, experiment: Experiment, dataset: object, part: str) -> PerUserResults:
        return of([valid[len(played) - 1]]) if part == "validation" else of([float(len(played))])

    monkeypatch.setattr(central, "ranked", ranked)
    found = central.train_centrally(experiment, dataset, 0.1)
    assert len(played) == 7 and found["full_ndcg@10"].tolist() == [2.0] and found["validation"].tolist() == [0.3]
    played.clear()
    assert central.train_centrally(experiment, dataset, 0.1, most_epochs=1)["full_ndcg@10"].tolist() == [1.0]


def test_an_epoch_on_the_pool_moves_every_used_row_once_and_draws_no_own_item(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    experiment, dataset = small("model=mf", "model.dim=2")
    model = experiment.build_model(dataset.catalogue)
    central.pool(model, dataset.interactions.users, seed=0)  # type: ignore[arg-type]
    user, item, _ = dataset.devices.train_rows()
    seen = {(int(u), int(i)) for u, i in zip(user, item, strict=True)}
    asked = list[tuple[int, int]]()
    loss = model.loss

    def noted(batch: object) -> torch.Tensor:
        owners, items = model.pooled_user_rows.tolist(), batch.items.tolist()  # type: ignore[attr-defined]
        asked.extend((u, i[0]) for u, i in zip(owners, items, strict=True))
        assert not any((u, j) in seen for u, i in zip(owners, items, strict=True) for j in i[1:])
        assert {len(i) for i in items} == {1 + 3}
        return loss(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "loss", noted)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    central.epoch(model, optimizer, dataset, np.random.default_rng(0), 3)  # type: ignore[arg-type]
    assert sorted(asked) == sorted(seen)
    assert all(not torch.equal(before[name], value) for name, value in model.named_parameters())


def test_scores_of_the_pool_are_those_of_each_user() -> None:
    import torch

    experiment, dataset = small("model=mf", "model.dim=2", "evaluation.users=17")
    model = experiment.build_model(dataset.catalogue)
    central.pool(model, dataset.interactions.users, seed=0)  # type: ignore[arg-type]
    rows = central.ranked(model, experiment, dataset, "test")  # type: ignore[arg-type]
    assert rows["user"].tolist() == experiment.evaluation.chosen(len(dataset.devices)).tolist()
    with torch.no_grad():
        for place, user in enumerate(rows["user"].tolist()):
            model.pooled_user_rows = torch.tensor([user])  # type: ignore[assignment]
            scores = model(torch.arange(model.items)[None])[0].numpy()
            device = dataset.devices[user]
            left = np.setdiff1d(np.arange(model.items), np.concatenate([device.history, device.validation]))
            best = left[np.argsort(-scores[left], kind="stable")][:10]
            assert (device.test[0] in best) == (rows["full_hr@10"][place] == 1.0)


class Known:
    """Stands for a trained model whose scores are given."""

    def __init__(self, devices: object, table: np.ndarray) -> None:
        self.devices, self.table = devices, table

    def scores(self, users: np.ndarray) -> np.ndarray:
        return self.table[users]


def test_new_items_are_ranked_among_themselves_and_among_all() -> None:
    """Each user's new item is the best of the new ones; every old item is better than all new ones."""
    experiment, dataset = small("model=mf")
    new = np.random.default_rng(1).random(dataset.devices.items) < 0.2
    devices = cold_start.without(dataset.devices, new)
    table = np.where(new, 0.0, 5.0) + np.zeros((len(devices), 1))
    for user, device in enumerate(devices):
        table[user, device.test] = 1.0
    row = cold_start.row("known", Known(devices, table), experiment, new)  # type: ignore[arg-type]
    asked = sum(len(device.test) > 0 for device in devices)
    assert (row["model"], row["users"], row["new items"]) == ("known", asked, int(new.sum()))
    assert row["among new hr@10"] == [1.0, 1.0, 1.0] and row["full hr@10"] == [0.0, 0.0, 0.0]
    assert row["among new ndcg@10"] == [1.0, 1.0, 1.0] and row["full ndcg@10"] == [0.0, 0.0, 0.0]


@pytest.fixture
def setting() -> pfedrec_leak.Setting:
    experiment, dataset = small("model=pfedrec", "model.dim=2", "model.item_rate=4")
    model = experiment.build_model(dataset.catalogue)
    assert isinstance(model, PFedRec)
    return pfedrec_leak.Setting(experiment, dataset.devices, model, 12)


def test_the_round_that_validation_likes_best_is_tested(setting: pfedrec_leak.Setting) -> None:
    """Looks come every five rounds and after the last: the tenth is best; the seventh, better still, is not seen."""
    asked = list[int]()
    quality = {5: 0.0, 7: 2.0, 10: 1.0, 12: 0.0}

    def play(number: int) -> np.ndarray:
        asked.append(number)
        scores = np.zeros((len(setting.devices), setting.devices.items), np.float32)
        scores[:, :] = np.arange(setting.devices.items)
        for user, device in enumerate(setting.devices):
            scores[user, device.validation] = 1000 * quality.get(number, 0) - 500
            scores[user, device.test] = number
        return scores

    number, rows = pfedrec_leak.best(setting, play, len(setting.devices))
    assert asked == list(range(1, 13)) and number == 10
    said = pfedrec_leak.row("ours", "alone", number, rows)
    assert (said["protocol"], said["exchange"], said["round"], said["users"]) == (
        "ours",
        "alone",
        10,
        len(rows["user"]),
    )
    one = intervals(rows["sampled_hr@10"][:, None])[0]
    assert said["sampled_hr@10"] == [round(one.mean, 4), round(one.low, 4), round(one.high, 4)]
    assert set(said) >= {"sampled_ndcg@10", "full_hr@10", "full_ndcg@10"}


@pytest.mark.parametrize("leaky", [True, False])
def test_a_device_is_ranked_by_the_item_table_it_changed(setting: pfedrec_leak.Setting, leaky: bool) -> None:
    engine, users = setting.engine(leaky), np.arange(7)
    private = engine.first_private(0, users)
    table = setting.model.shared_arrays()
    made: Contributions[StackedUpdates] = setting.train(engine, table, users, private, 1)
    found = setting.scores(table, made, len(users))
    for place, user in enumerate(made.users.tolist()):
        own = table["item.weight"] + made.stack.update_of(place).arrays["item.weight"]
        score, bias = made.private["score.weight"][place, 0], made.private["score_bias.weight"][place, 0]
        np.testing.assert_allclose(found[user], 2 * own @ score + bias, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("leaky", [True, False])
def test_with_everybody_the_mean_change_is_taken_and_alone_each_keeps_its_own(
    setting: pfedrec_leak.Setting, leaky: bool
) -> None:
    """One device alone is the federation of one device; the first round of all gives each the same scores both ways."""
    users = len(setting.devices)
    plays: list[Callable[[int], np.ndarray]] = [
        pfedrec_leak.together(setting, leaky),
        pfedrec_leak.alone(setting, leaky, users),
    ]
    both = [play(1) for play in plays]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)
    second = [play(2) for play in plays]
    assert np.abs(second[0] - second[1]).max() > 1e-3


def test_the_leak_is_that_held_out_items_are_never_trained_down(setting: pfedrec_leak.Setting) -> None:
    users, moved = np.arange(len(setting.devices)), dict[bool, int]()
    for leaky in (True, False):
        engine = setting.engine(leaky)
        private = engine.first_private(0, users)
        made = setting.train(engine, setting.model.shared_arrays(), users, private, 1)
        moved[leaky] = 0
        for place, user in enumerate(made.users.tolist()):
            device, change = setting.devices[user], made.stack.update_of(place).arrays["item.weight"]
            moved[leaky] += int(np.count_nonzero(change[[*device.validation, *device.test]].any(axis=1)))
    assert moved[True] == 0 < moved[False]


def test_both_protocols_are_printed_together_and_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--rounds", "2", "--alone", "3", *FREE, "model.dim=2"]
    monkeypatch.setattr("sys.argv", ["published", *arguments])
    played = list[tuple[bool, int]]()
    engine = pfedrec_leak.Setting.engine

    def noted(self: pfedrec_leak.Setting, leaky: bool) -> object:
        played.append((leaky, self.rounds))
        return engine(self, leaky)

    monkeypatch.setattr(pfedrec_leak.Setting, "engine", noted)
    pfedrec_leak.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["protocol"], line["exchange"], line["users"]) for line in lines] == [
        ("published", "federated", 40),
        ("published", "alone", 3),
        ("ours", "federated", 40),
        ("ours", "alone", 3),
    ]
    assert played == [(True, 2), (True, 2), (False, 2), (False, 2)] and all(line["round"] == 2 for line in lines)


def test_models_on_their_first_day_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--models", "two_tower", "--new", "0.2", *FREE, "rounds=1", "model.dim=2"]
    monkeypatch.setattr("sys.argv", ["cold_start", *arguments])
    cold_start.main()
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert line["model"] == "two_tower" and 0 < line["new items"] < 60 and 0 < line["users"] <= 40
    low, high = line["among new hr@10"][1:]
    assert 0 <= low <= line["among new hr@10"][0] <= high <= 1
    monkeypatch.setattr("sys.argv", ["cold_start", "--models", "mf", *FREE])
    with pytest.raises(TypeError, match="mf is not trained by windows"):
        cold_start.main()
