"""An experiment is its document: what the hash, the plan and the calibrated noise may depend on, and on what not."""

import dataclasses
import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.dataset import Dataset
from fedrec.data.splits import leave_last_out
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.experiment import Experiment, accelerator, load_dataset
from fedrec.experiment.settings import load
from fedrec.privacy.guarantee import Unit
from tests.support.tiny import SMALL, catalogue, interactions_of

MODELS = ["mf", "neumf", "content", "ease", "popularity"]
PRIVATE = [
    ("mf", "user"),
    ("mf", "interaction"),
    ("popularity", "user"),
    ("popularity", "interaction"),
    ("ease", "user"),
]
VALUES = st.one_of(st.integers(0, 9), st.floats(0.5, 9), st.none(), st.text("abc", max_size=3))


@cache
def made(*overrides: str) -> Experiment:
    return load([*SMALL, *overrides]).experiment


@pytest.fixture(scope="module")
def base() -> Experiment:
    return made("model=mf", "privacy=user", "rounds=4")


@pytest.fixture(scope="module")
def dataset(base: Experiment) -> Dataset:
    return load_dataset(base)


def shuffled(node: Any) -> Any:
    """The same tables with their keys in another order."""
    return {key: shuffled(node[key]) for key in sorted(node, reverse=True)} if isinstance(node, dict) else node


def others_tastes(dataset: Dataset, seed: int = 1) -> Dataset:
    """The same public facts, other behaviour: every item, rating and time is drawn again, and so is who is active."""
    rng, own = np.random.default_rng(seed), interactions_of(dataset)
    changed = replace(
        own,
        user=np.sort(rng.integers(0, own.users, len(own))).astype(np.int32),
        item=rng.integers(0, own.items, len(own)).astype(np.int32),
        value=rng.integers(1, 6, len(own)).astype(np.float32),
        time=np.sort(rng.random(len(own))),
    )
    return replace(dataset, interactions=changed, devices=leave_last_out(changed))


@pytest.mark.parametrize("model", MODELS)
def test_an_experiment_is_built_again_from_its_document(model: str) -> None:
    one = made(f"model={model}", "privacy=user")
    again = Experiment.from_json(one.document)
    assert again.document == one.document and again.hash == one.hash
    same = ("dataset", "algorithm", "mechanism", "cohort", "evaluation", "rounds", "seed", "accelerator")
    assert all(getattr(again, name) == getattr(one, name) for name in same)
    public = catalogue()
    first, second = one.build_model(public), again.build_model(public)
    assert type(first) is type(second)
    kept, found = ({**m.shared_arrays(), **m.private_arrays()} for m in (first, second))
    assert kept.keys() == found.keys() and all(np.array_equal(kept[name], found[name]) for name in kept)


def test_the_document_is_canonical(base: Experiment) -> None:
    """Neither the order of keys nor spaces make another experiment."""
    node = base.node()
    for text in (json.dumps(shuffled(node)), json.dumps(node, indent=4), base.document):
        assert Experiment.from_json(text).hash == base.hash
    assert list(json.loads(base.document)) == sorted(node) and len(base.hash) == 64


def test_a_document_handed_out_is_a_copy(base: Experiment) -> None:
    before = base.document
    base.node()["privacy"]["epsilon"] = 10_000
    assert base.document == before and base.node()["privacy"]["epsilon"] == 8.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.seed = 1  # type: ignore[misc]


CHANGES = [
    {"seed": 1},
    {"rounds": 5},
    {"privacy": {"_target_": "fedrec.privacy.mechanisms.none.NoPrivacy"}},
    {"cohort": {"_target_": "fedrec.experiment.cohort.CohortConfig", "size": 7.0}},
    {"cohort": {"_target_": "fedrec.experiment.cohort.CohortConfig", "size": 7.5}},
    {"dataset": {"_target_": "fedrec.data.datasets.synthetic.Synthetic", "seed": 3}},
    {"model": {"_target_": "fedrec.models.mf.MatrixFactorization", "_partial_": True, "dim": 3}},
    {"algorithm": {"_target_": "fedrec.algorithms.fedavg.FedAvg", "learning_rate": 0.25}},
    {"evaluation": {"_target_": "fedrec.evaluation.config.EvaluationConfig", "negatives": 50}},
]


def test_every_change_makes_another_hash_and_undoing_it_the_first_one(base: Experiment) -> None:
    hashes = {base.hash}
    for change in CHANGES:
        varied = base.varied(change)
        hashes.add(varied.hash)
        assert varied.node() == {**base.node(), **change}
        assert varied.varied({key: base.node()[key] for key in change}).hash == base.hash
    assert len(hashes) == len(CHANGES) + 1


@settings(max_examples=60, deadline=None)
@given(one=st.dictionaries(st.sampled_from("pqr"), VALUES), other=st.dictionaries(st.sampled_from("pqr"), VALUES))
def test_the_hash_changes_if_and_only_if_the_document_does(
    base: Experiment, one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = (replace(base, document=json.dumps({**base.node(), **d}, sort_keys=True)) for d in (one, other))
    assert (first.hash == second.hash) == (first.document == second.document)
    assert (first.document == second.document) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), rounds=st.integers(1, 500))
def test_varying_changes_what_was_named_and_nothing_else(base: Experiment, seed: int, rounds: int) -> None:
    varied = base.varied({"seed": seed, "rounds": rounds})
    assert (varied.seed, varied.rounds) == (seed, rounds)
    assert {**varied.node(), "seed": base.seed, "rounds": base.rounds} == base.node()
    assert base.varied({}).hash == base.hash


def test_a_varied_experiment_is_checked_like_any_other(base: Experiment) -> None:
    with pytest.raises(FedrecError, match=r"privacy\.clipp does not exist.*clip"):
        base.varied({"privacy": {**base.node()["privacy"], "clipp": 1.0}})
    with pytest.raises(FedrecError, match="not one of fedrec's own classes"):
        base.varied({"model": {"_target_": "os.system", "command": "true"}})


@pytest.mark.parametrize("size", [None, 10, 39.5, 4000])
def test_the_plan_says_what_everybody_may_know(dataset: Dataset, size: float | None) -> None:
    one = made("model=mf", "rounds=4", f"cohort.size={'null' if size is None else size}")
    plan = one.plan(dataset)
    assert (plan.population, plan.interactions) == (40, len(dataset.interactions))
    assert (plan.rounds, plan.trains, plan.shares) == (4, True, None)
    assert plan.expected_cohort == pytest.approx(min(size or 40, 40))


@pytest.mark.parametrize(("model", "rounds"), [("popularity", 1), ("ease", 2), ("mf", 9)])
def test_an_algorithm_has_the_last_word_on_rounds(dataset: Dataset, model: str, rounds: int) -> None:
    one = made(f"model={model}", "rounds=9")
    plan = one.plan(dataset)
    assert one.rounds == plan.rounds == rounds and plan.trains == (model == "mf")
    assert plan.shares is None or (len(plan.shares) == rounds and math.isclose(sum(plan.shares), 1))


def test_the_plan_does_not_look_at_what_users_did(base: Experiment, dataset: Dataset) -> None:
    other = others_tastes(dataset)
    assert not np.array_equal(other.interactions.item, dataset.interactions.item)
    assert base.plan(other) == base.plan(dataset)


@pytest.mark.parametrize(("model", "privacy"), PRIVATE)
def test_calibrating_twice_finds_the_same_noise(dataset: Dataset, model: str, privacy: str) -> None:
    raw = made(f"model={model}", f"privacy={privacy}", "rounds=3")
    once = raw.calibrated(dataset)
    twice = once.calibrated(dataset)
    found = once.node()["privacy"]["noise_multiplier"]
    assert raw.node()["privacy"]["noise_multiplier"] is None and found > 0
    assert twice.node()["privacy"]["noise_multiplier"] == found == once.mechanism.noise_multiplier  # type: ignore[attr-defined]
    assert twice.document == once.document and once.hash != raw.hash


@pytest.mark.parametrize(("model", "privacy"), PRIVATE)
def test_a_calibrated_document_holds_nothing_that_depends_on_the_data(
    dataset: Dataset, model: str, privacy: str
) -> None:
    """It goes out with every message: with the same published sizes it is the same whatever users did."""
    raw = made(f"model={model}", f"privacy={privacy}", "rounds=3")
    once = raw.calibrated(dataset)
    assert raw.calibrated(others_tastes(dataset)).document == once.document
    own, asked = ({k: v for k, v in one.node().items() if k != "privacy"} for one in (once, raw))
    if asked["algorithm"].get("shortest_history") == "auto":  # by the public sizes
        asked["algorithm"] = {**asked["algorithm"], "shortest_history": own["algorithm"]["shortest_history"]}
    assert own == asked
    changed = {k for k, v in once.node()["privacy"].items() if v != raw.node()["privacy"].get(k)}
    assert changed <= {"noise_multiplier", "sensitivity", "clip"} and "noise_multiplier" in changed


def test_more_budget_is_less_noise_and_more_rounds_are_more(base: Experiment, dataset: Dataset) -> None:
    def noise(epsilon: float, rounds: int) -> float:
        varied = base.varied({"rounds": rounds, "privacy": {**base.node()["privacy"], "epsilon": epsilon}})
        return varied.calibrated(dataset).node()["privacy"]["noise_multiplier"]

    middle = noise(4.0, 4)
    assert noise(8.0, 4) < middle < noise(2.0, 4)
    assert noise(4.0, 2) < middle < noise(4.0, 9)


def test_noise_given_by_hand_stays_if_it_is_enough(dataset: Dataset) -> None:
    enough = made("model=mf", "privacy=user", "rounds=2", "privacy.noise_multiplier=50").calibrated(dataset)
    assert enough.node()["privacy"]["noise_multiplier"] == 50
    with pytest.raises(RefusedError, match=r"noise_multiplier=0.01 costs epsilon"):
        made("model=mf", "privacy=user", "rounds=2", "privacy.noise_multiplier=0.01").calibrated(dataset)


def test_no_privacy_has_nothing_to_calibrate(dataset: Dataset) -> None:
    one = made("model=mf", "privacy=none")
    assert one.calibrated(dataset).document == one.document


@pytest.mark.parametrize("privacy", ["user", "interaction"])
def test_the_clip_of_a_statistic_is_its_own_bound_not_the_users(dataset: Dataset, privacy: str) -> None:
    one = made("model=popularity", f"privacy={privacy}", "privacy.clip=0.01").calibrated(dataset)
    bound = {"user": "clip", "interaction": "sensitivity"}[privacy]
    assert getattr(one.mechanism, bound) == one.algorithm.sensitivity(Unit(privacy)) == 1.0
    trained = made("model=mf", f"privacy={privacy}", "privacy.clip=0.01").calibrated(dataset)
    assert trained.node()["privacy"]["clip"] == 0.01


def test_the_first_model_depends_on_the_seed_and_on_nothing_else(base: Experiment) -> None:
    public = catalogue()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = base.build_model(public).shared_arrays()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = base.build_model(public).shared_arrays()
    other = base.varied({"seed": 1}).build_model(public).shared_arrays()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["item.weight"], other["item.weight"])


@pytest.mark.parametrize("name", ["gpu", "", "CUDA", "cuda:0"])
def test_an_accelerator_is_cpu_or_cuda(name: str) -> None:
    with pytest.raises(FedrecError, match=rf"accelerator={name} must be cpu or cuda"):
        accelerator(name)


def test_an_accelerator_that_is_not_there_is_refused_when_the_experiment_is_built(
    base: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert accelerator("cpu") == "cpu"
    with pytest.raises(FedrecError, match="use accelerator=cpu"):
        base.varied({"accelerator": "cuda"})
    with pytest.raises(FedrecError, match="use accelerator=cpu"):
        made("accelerator=cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert base.varied({"accelerator": "cuda"}).accelerator == "cuda"
