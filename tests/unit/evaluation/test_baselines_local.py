"""A device alone, and baselines over the most popular items."""

import numpy as np
import torch

from fedrec.data.catalogue import Catalogue
from fedrec.evaluation import baselines
from fedrec.evaluation.baselines import base, pooled
from fedrec.evaluation.baselines.base import over_head
from fedrec.evaluation.config import EvaluationConfig
from fedrec.models.content import ContentRecommender
from tests.support.tiny import catalogue
from tests.unit.evaluation.test_baselines import toy

OPTIONS = EvaluationConfig(negatives=3)


def test_a_device_alone_ranks_as_the_content_model_does_before_anything_is_shared() -> None:
    public = catalogue(12)
    history = np.array([3, 1, 7], np.int32)
    model = ContentRecommender(public, strength=1.0)
    alone = base.fit_local(public).scores(history)
    assert np.allclose(alone, model.scores(torch.tensor([3, 1, 7])).detach().numpy(), atol=1e-6)
    assert np.array_equal(base.fit_local(public).scores(np.array([], np.int32)), np.zeros(12))


def test_without_features_a_device_alone_is_at_chance() -> None:
    names = np.array([f"i{n}" for n in range(7)])
    bare = Catalogue(names, names, np.empty((7, 0), np.float32), (), "interactions")
    rows = baselines.evaluate_alone(bare, toy(), "test", OPTIONS)
    assert np.allclose(rows["full_tied"], 1) and np.allclose(rows["sampled_hr@5"], 1)
    chance = np.mean(1 / np.arange(1, 4))  # three items that a user of five has not used, the target among them
    assert np.allclose(rows["full_hr@10"], 1) and np.allclose(rows["full_mrr@10"][1:], chance)


def test_a_device_alone_uses_its_own_history_only() -> None:
    public, devices = catalogue(7), toy()
    rows = baselines.evaluate_alone(public, devices, "test", OPTIONS)
    other = toy(seed=1)
    alone = base.fit_local(public)
    for user in (0, 3):
        assert np.array_equal(alone.scores(devices[user].known), base.fit_local(public).scores(devices[user].known))
        assert not np.array_equal(alone.scores(devices[user].known), alone.scores(other[user].known))
    assert not base.LocalOnly.pooled and len(rows["user"]) == 12


def test_over_all_items_a_head_changes_no_rank() -> None:
    devices = toy(users=30)
    whole, headed = pooled.fit_item_knn(devices), over_head(pooled.fit_item_knn, devices, 7)
    histories = [devices[user].history for user in range(30)]
    assert np.allclose(whole.scores_many(histories), headed.scores_many(histories))


def test_items_outside_the_head_follow_by_popularity() -> None:
    devices = toy(users=30)
    users_of = np.bincount(devices.train_rows()[1], minlength=7)
    headed = over_head(pooled.fit_item_knn, devices, 4)
    order = np.argsort(-users_of, kind="stable")
    scores = headed.scores(devices[0].history)
    assert scores[order[:4]].min() > scores[order[4:]].max() + 0.9
    assert np.all(np.diff(scores[order[4:]]) <= 0)
    inside = over_head(pooled.fit_item_knn, devices, 4).scores(
        devices[0].history[np.isin(devices[0].history, order[:4])]
    )
    assert np.allclose(inside, scores)


def test_the_head_is_that_of_the_options() -> None:
    devices = toy(users=30)
    every = baselines.evaluate("ease", devices, "test", OPTIONS)
    same = baselines.evaluate("ease", devices, "test", EvaluationConfig(negatives=3, head=7))
    fewer = baselines.evaluate("ease", devices, "test", EvaluationConfig(negatives=3, head=2))
    assert np.array_equal(every["full_ndcg@10"], same["full_ndcg@10"])
    assert not np.array_equal(every["full_ndcg@10"], fewer["full_ndcg@10"])
