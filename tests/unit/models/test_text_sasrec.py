"""Attention over public texts, and the adapters of low rank inside a body that stays as it was."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.sequence_sgd import FedSGDSequences
from fedrec.cli.main import main
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.inputs import tell_inputs
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.federated.state import load_released_state
from fedrec.messages import ModelUpdate
from fedrec.models import text_embeddings
from fedrec.models.sasrec import Shape
from fedrec.models.text_embeddings import encoder_input
from fedrec.models.text_sasrec import LoRALinear, TextSASRec
from fedrec.paths import ledger_path
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.release import total_of
from fedrec.training.batches import CohortData
from fedrec.training.sequences import SequenceEngine
from tests.support.tiny import SMALL, catalogue, session, small
from tests.unit.models.test_sequential import SEED, SIZES, check_close, check_same, table

ITEMS, K, RANK = 30, 7, 2
SETTINGS = FedSGDSequences(negatives=K, warm_up=0)
TINY = [
    "model=text_sasrec",
    "model.shape.dim=8",
    "model.shape.window=6",
    "model.shape.blocks=1",
    "model.encoder=words",
    "rounds=2",
]


def made(rank: int | None = RANK, items: int = ITEMS, body: Path | None = None) -> TextSASRec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return TextSASRec(
            catalogue(items), shape=Shape(8, 5, 2, heads=2), rank=rank, encoder="words", body=body and str(body)
        )


def shaken(model: TextSASRec) -> TextSASRec:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.double()


def body_of(folder: Path, model: TextSASRec) -> Path:
    folder.mkdir()
    save_file(model.shared_arrays(), folder / "model.safetensors")
    return folder


def test_an_adapter_adds_a_product_of_low_rank_and_starts_at_nothing() -> None:
    layer, x = LoRALinear(6, 4, RANK), torch.randn(3, 5, 6)
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), plain)
    torch.nn.init.normal_(layer.up)
    torch.testing.assert_close(layer(x), plain + x @ (layer.up @ layer.down).T)
    assert {name for name, value in layer.named_parameters() if value.requires_grad} == {"up", "down"}


def test_what_is_trained_grows_with_the_rank_and_not_with_the_catalogue() -> None:
    """Adapters: rank * (inputs + outputs) of every layer; besides, the last normalisation and one number a text."""
    t = made().get_buffer("vectors").shape[1]
    layers = [(t, 8), *2 * [(8, 24), (8, 8), (8, 16), (16, 8)]]
    for rank, items in ((1, 12), (2, 12), (2, ITEMS)):
        model = made(rank, items)
        shapes = SETTINGS.shapes(SETTINGS.init(model, catalogue(items)))
        assert sum(int(np.prod(s)) for s in shapes.values()) == rank * sum(map(sum, layers)) + 2 * 8 + t
        whole = SETTINGS.shapes(SETTINGS.init(made(None, items), catalogue(items)))
        assert whole.keys() == made(None, items).shared and len(shapes) < len(model.shared)


def test_training_leaves_the_body_as_it_was() -> None:
    model, device = made(), table()[3]
    state = SETTINGS.init(model, catalogue(ITEMS))
    first = SETTINGS.broadcast(state)
    for number in range(1, 4):
        context = RoundContext(number, SEED, NoPrivacy())
        update = SETTINGS.contribute(model, SETTINGS.broadcast(state), device, {}, context).update
        state = SETTINGS.step(state, Aggregate(update.arrays, 1.0))
    moved = {name for name, array in SETTINGS.broadcast(state).items() if not np.array_equal(array, first[name])}
    assert moved == SETTINGS.shapes(state).keys() and first.keys() == model.shared


def test_a_body_of_another_catalogue_is_where_a_model_starts(tmp_path: Path) -> None:
    other = made(None, items=12)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3)
    model = made(body=body_of(tmp_path / "run", other))
    assert not torch.equal(model.position.weight, other.position.weight)  # no device reads the file
    model.ready()
    assert not torch.equal(model.position.weight, other.position.weight)
    model.begin()
    history = torch.tensor([3, 1, 4])
    plain = made(None)
    plain.load(other.shared_arrays())
    torch.testing.assert_close(model.scores(history), plain.scores(history))
    file = made(None, body=tmp_path / "run" / "model.safetensors")
    file.begin()
    torch.testing.assert_close(file.scores(history), plain.scores(history))


def test_a_body_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match=r"model\.body=.*nowhere: no model\.safetensors there"):
        made(body=tmp_path / "nowhere").begin()
    save_file({"item.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(FedrecError, match=r"is no run of model=text_sasrec: it holds item\.weight"):
        made(body=tmp_path).begin()
    few = TextSASRec(catalogue(12), shape=Shape(8, 5, 1, heads=2), encoder="words")
    with pytest.raises(FedrecError, match=r"lacks blocks\.1.*model\.shape\.blocks"):
        made(body=body_of(tmp_path / "few", few)).begin()
    wide = TextSASRec(catalogue(12), shape=Shape(4, 5, 2, heads=2), encoder="words")
    with pytest.raises(FedrecError, match="expected"):
        made(body=body_of(tmp_path / "wide", wide)).begin()
    with pytest.raises(FedrecError, match=r"nowhere"):
        small(*TINY, f"model.body={tmp_path / 'nowhere'}", base=[*SMALL, "privacy=none"])
    with pytest.raises(FedrecError, match=r"model\.rank=0"):
        made(0)


def test_a_text_is_said_the_same_way_in_every_catalogue() -> None:
    found = [text_embeddings.text_embedding_table(catalogue(items), "words") for items in (12, ITEMS)]
    assert found[0].shape[1] == found[1].shape[1]
    np.testing.assert_allclose(found[1].mean(0), 0, atol=1e-6)
    bare = replace(catalogue(12), features=np.zeros((12, 0), np.float32), feature_names=())
    assert text_embeddings.text_embedding_table(bare, "words").shape == (12, text_embeddings.BUCKETS)


def test_scores_are_the_logits_after_the_last_window() -> None:
    model, history = shaken(made()), torch.from_numpy(table()[3].history.astype(np.int64))
    said = model.get_buffer("vectors")
    vectors = model.wares(said)
    expected = model.states(vectors[history[-5:]])[-1] @ vectors.T + model.lean(said).squeeze(-1)
    torch.testing.assert_close(model.scores(history), expected)
    many = model.scores_many([history, history[:0], history[:2]], {})
    torch.testing.assert_close(many[0], expected)
    torch.testing.assert_close(many[1], model.lean(said).squeeze(-1))
    torch.testing.assert_close(many[2], model.scores(history[:2]))


def test_each_of_many_adapters_is_what_a_device_sends_alone() -> None:
    mechanism = UserLevel(clip=0.05, noise_multiplier=1.0, randomness="seeded")
    model, context = shaken(made()), RoundContext(2, SEED, mechanism)
    sent = model.shared_arrays()
    alone = [
        SETTINGS.contribute(shaken(made()), sent, table()[user], {}, context).update.arrays
        for user in range(len(SIZES))
    ]
    chosen = CohortData(table(), np.arange(len(SIZES)))
    stack = SequenceEngine(model, K).train(sent, chosen, {}, mechanism, (SEED, 2)).stack
    for user, expected in enumerate(alone):
        check_close(stack.update_of(user).arrays, expected, 1e-10)
    summed = {name: np.sum([one[name] for one in alone], axis=0) for name in alone[0]}
    check_close(stack.weighted_sum(np.ones(len(SIZES))).arrays, summed, 1e-10)
    clipped = total_of(mechanism.privatize_update(ModelUpdate(one, 1), mechanism.random(1)) for one in alone)
    check_same(mechanism.privatize_cohort(stack, mechanism.random(1)).arrays, clipped.arrays)


@pytest.mark.parametrize("privacy", ["none", "user_adaptive"])
def test_a_run_trains_adapters_inside_of_another_runs_body(tmp_path: Path, privacy: str) -> None:
    first = small(*TINY, base=[*SMALL, "privacy=none"])
    with session(*first, tmp_path / "first", LocalTransport(1)) as opened:
        assert len(list(run(opened))) == 2
        body = {n: a for n, a in load_released_state(opened)[1].items() if "/" not in n}
    save_file(body, tmp_path / "model.safetensors")
    second = small(*TINY, f"model.body={tmp_path}", "model.rank=2", base=[*SMALL, f"privacy={privacy}"])
    with session(*second, tmp_path / "second", LocalTransport(2), run="second") as opened:
        assert len(list(run(opened))) == 2
        found = load_released_state(opened)[1]
    same = {name for name, array in body.items() if np.array_equal(array, found[name])}
    assert same == {name for name in body if not name.startswith(("after", "lean"))}


def trained(tmp_path: Path, name: str, *more: str) -> dict[str, Any]:
    """Run a simulation; return its card, with the metrics' population beside it."""
    free = ["evaluation.baselines=[]", f"output={tmp_path}", f"name={name}", *more]
    main(["simulate", *SMALL, *TINY, *free])
    return json.loads((tmp_path / name / "privacy_card.json").read_text())


PRIVATE = ["privacy=user", "privacy.clip=0.1", "cohort.size=20"]


def test_a_body_of_the_same_people_is_charged_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that starts from what these people taught without privacy has no epsilon, whatever is added later."""
    first = trained(tmp_path, "first", *PRIVATE)
    assert first["fields"]["composition"]["started_from"] == ["none that was trained on people"]
    body = f"model.body={tmp_path / 'first'}"
    second = trained(tmp_path, "second", *PRIVATE, body)
    (said,) = second["fields"]["composition"]["started_from"]
    digest = hashlib.sha256((tmp_path / "first" / "model.safetensors").read_bytes()).hexdigest()
    assert f"sha256 {digest}), trained on these people under epsilon 8.00 (" in said
    assert first["fields"]["evidence"]["model"] == f"sha256 {digest}" and "the total holds it" in said
    assert second["fields"]["composition"]["all_runs_on_these_users"].startswith("epsilon 1")  # of both: 11 to 12
    population = first["ledger"]["population"]
    (tmp_path / "first" / "privacy_card.json").write_text(json.dumps({**first, "fields": {}}))
    with pytest.raises(SystemExit):
        main(["simulate", *SMALL, *TINY, *PRIVATE, body, f"output={tmp_path}", "name=third"])
    assert "was trained on these people without a guarantee" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()
    model = made(None, body=tmp_path / "first")
    (said,) = tell_inputs(model, catalogue(ITEMS), "others")
    assert f"trained on other people ({population}) without a guarantee: nothing here protects them" in said
    (tmp_path / "first" / "privacy_card.json").write_text(json.dumps(first))
    (said,) = tell_inputs(model, catalogue(ITEMS), "others")
    assert f"trained on other people ({population}) under epsilon 8.00 (" in said
    ledger_path(population).rename(tmp_path / "moved.sqlite")
    with pytest.raises(RefusedError, match="the ledger of what it spent is not here"):
        tell_inputs(model, catalogue(ITEMS), population)


def test_a_body_without_a_card_is_declared_public_by_its_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, "first", *PRIVATE)
    file = tmp_path / "body.safetensors"
    file.write_bytes((tmp_path / "first" / "model.safetensors").read_bytes())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for more, why in (
        ([], rf"no privacy_card.json lies beside it.* model.body_public={digest} declares it so"),
        ([f"model.body_public={'0' * 64}"], f"is not the SHA-256 of {file}, which is {digest}"),
    ):
        with pytest.raises(SystemExit):
            trained(tmp_path, "second", *PRIVATE, f"model.body={file}", *more)
        assert re.search(why, capsys.readouterr().err)
    card = trained(tmp_path, "third", *PRIVATE, f"model.body={file}", f"model.body_public='{digest}'")
    assert card["fields"]["composition"]["started_from"] == [f"model.body={file} (sha256 {digest}), declared public"]
    other = np.zeros(3, np.float32)
    save_file({"w": other}, tmp_path / "first" / "model.safetensors")
    model = made(None, body=tmp_path / "first")
    with pytest.raises(RefusedError, match="tells of another model"):
        tell_inputs(model, catalogue(ITEMS), "anybody")


def test_an_encoder_is_named_by_what_it_says(tmp_path: Path) -> None:
    (one,) = encoder_input("model.encoder", text_embeddings.PACKAGED, catalogue(ITEMS))
    assert one.declared and one.name == text_embeddings.PACKAGED and len(one.sha256) == 64
    (other,) = encoder_input("model.encoder", text_embeddings.PACKAGED, catalogue(ITEMS - 1))
    assert other.sha256 != one.sha256
    assert encoder_input("model.encoder", "words", catalogue(ITEMS)) == ()
    for model in ("mf", "sasrec"):
        experiment, dataset = small(f"model={model}", f"model.warm_start={text_embeddings.PACKAGED}")
        (found,) = experiment.build_model(dataset.catalogue).inputs(dataset.catalogue)
        assert found.setting == "model.warm_start"
