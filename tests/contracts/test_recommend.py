"""What every model promises to somebody at a terminal, for every yaml under conf/model: a finished run recommends."""

from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import RefusedError
from fedrec.experiment.settings import load
from fedrec.federated.exchange import LocalTransport
from fedrec.recommend.finished_run import FinishedRun
from fedrec.recommend.ranker import described, explain, recommend
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, new_run
from tests.support.tiny import FREE

NAMES = sorted(p.stem for p in (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml") if p.stem != "auto")
SILENT = {"neumf"}  # models that say that they can't explain
LINEAR = {"content", "ease", "mf", "popularity"}


def finished(name: str, folder: Path) -> FinishedRun:
    """Run a model for two rounds on 40 synthetic users, and open what it left."""
    words = ["model.encoder=words"]
    small = {"ease": ["algorithm.head=30"], "two_tower": words, "text_sasrec": words}.get(name, [])
    wanted = [*FREE, f"model={name}", "rounds=2", "evaluation.baselines=[]", f"output={folder}", f"name={name}", *small]
    settings, run = new_run(load(wanted))
    Simulation(settings, run, lambda: LocalTransport(1), Progress()).simulate()
    return FinishedRun.open(run.path)


@pytest.fixture(scope="module", params=NAMES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    patch = pytest.MonkeyPatch()
    patch.setenv("FEDREC_STATE", str(tmp_path_factory.mktemp("state")))
    made = finished(request.param, tmp_path_factory.mktemp("runs"))
    patch.undo()
    return made


def test_a_user_gets_the_best_of_what_they_have_not_used(run: FinishedRun) -> None:
    device = run.dataset.devices[3]
    taste = run.of_user(3)
    used = {*device.known.tolist(), *device.test.tolist()}
    assert set(taste.history.tolist()) == used
    found, scores = recommend(taste, 7), taste.scores()
    assert len(found) == len({one.item for one in found}) == 7 and not used & {one.item for one in found}
    left = np.setdiff1d(np.arange(len(run.catalogue)), sorted(used))
    assert [one.score for one in found] == np.sort(scores[left])[::-1][:7].tolist()
    assert len(recommend(taste, 1000)) == len(left)


def test_somebody_new_is_folded_in_and_one_more_item_counts_at_once(run: FinishedRun) -> None:
    likes = np.array([4, 11])
    first = [one.item for one in recommend(run.ranker(likes), 5)]
    assert len(first) == 5 and not {4, 11} & set(first)
    more = run.ranker(np.append(likes, first[0]))
    assert first[0] not in [one.item for one in recommend(more, 5)]
    personal = run.settings.document["name"] not in {"popularity"}
    assert personal == (not np.array_equal(more.scores(), run.ranker(likes).scores()))


def test_shares_add_up_to_the_score_or_the_model_says_that_it_cannot_tell(run: FinishedRun) -> None:
    taste, nobody = run.of_user(5), run.ranker(np.empty(0, np.int64))
    told = 0
    for one in recommend(taste, 5):
        if taste.item_contributions(one.item) is None:
            with pytest.raises(RefusedError, match="can't say why"):
                explain(taste, one.item)
            continue
        told += 1
        found = explain(taste, one.item)
        assert found.own == pytest.approx(float(nobody.scores()[one.item]), rel=1e-4, abs=1e-4)
        assert found.own + sum(reason.share for reason in found.reasons) == pytest.approx(one.score, abs=1e-4)
        assert {reason.item for reason in found.reasons} == set(taste.history.tolist())
        shares = [reason.share for reason in found.reasons]
        assert shares == sorted(shares, reverse=True)
    name = run.settings.document["name"]
    assert told == 5 if name in LINEAR else told == 0 if name in SILENT else True


def test_what_is_shown_names_titles_and_adds_up(run: FinishedRun) -> None:
    taste = run.of_user(1)
    lines = described(recommend(taste, 3), taste, run.catalogue, reasons=2)
    assert [line["rank"] for line in lines] == [1, 2, 3]
    for line in lines:
        row = run.catalogue.ids.tolist().index(line["id"])
        assert line["title"] == run.catalogue.titles[row]
        if (why := line["because"]) is not None:
            total = why["own"] + sum(item["share"] for item in why["items"]) + why["others"]
            assert total == pytest.approx(line["score"], abs=1e-4)
