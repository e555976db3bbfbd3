"""One loop over three kinds of nodes gives one result; what is bad or missing is dropped, named and counted."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from fedrec.device.client_app import make_client_app
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.settings import load
from fedrec.federated.exchange import LocalTransport, Transport
from fedrec.federated.loop import run
from fedrec.federated.state import RoundReport, load_released_state
from fedrec.flower.transport import FlowerTransport, InProcessGrid
from fedrec.messages import Message
from tests.support.tiny import SMALL, session, small


def played(
    path: Path, nodes: Transport, *overrides: str, base: list[str] | None = None
) -> tuple[list[RoundReport], dict[str, np.ndarray]]:
    experiment, dataset = small(*overrides, base=base)
    with session(experiment, dataset, path, nodes, run=path.name) as opened:
        rounds = list(run(opened))
        return rounds, load_released_state(opened)[1]


GRIDS = {
    "one device per node": lambda: FlowerTransport(InProcessGrid(make_client_app(), 40)),
    "shards": lambda: FlowerTransport(InProcessGrid(make_client_app(), 3)),
    "plain loop": lambda: LocalTransport(1),
}
MIXED = {"some without torch": lambda: FlowerTransport(InProcessGrid(make_client_app(), 3, ["torch", "light"]))}


@pytest.mark.parametrize("model", ["mf", "neumf", "content", "ease", "popularity"])
def test_grids_and_shards_do_not_change_the_result(tmp_path: Path, model: str) -> None:
    """One device per node, shards, and a plain loop without Flower agree to 1e-6 after three rounds.

    FedAdam divides by the root of a second moment that can be as small as rounding: a larger tau keeps that out.
    """
    adam = ["algorithm.tau=0.001"] if model in ("mf", "neumf") else []
    grids = GRIDS | (MIXED if adam else {})
    found = {
        name: played(tmp_path / str(place), make(), f"model={model}", "rounds=3", "cohort.size=25", *adam)
        for place, (name, make) in enumerate(grids.items())
    }
    rounds, state = found["plain loop"]
    assert any(np.abs(array).max() > 1e-3 for array in state.values())
    for other_rounds, other in found.values():
        assert [r.cohort for r in other_rounds] == [r.cohort for r in rounds]
        for name, array in state.items():
            np.testing.assert_allclose(other[name], array, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(array).max()))


@pytest.mark.parametrize("privacy", ["user", "user_adaptive", "user_local", "banded", "interaction"])
def test_seeded_mechanisms_do_not_depend_on_shards_either(tmp_path: Path, privacy: str) -> None:
    base = [*SMALL, f"privacy={privacy}", "privacy.randomness=seeded"]
    overrides = ["model=mf", "model.dim=4", "rounds=2"]
    one = played(tmp_path / "a", LocalTransport(1), *overrides, base=base)[1]
    other = played(tmp_path / "b", FlowerTransport(InProcessGrid(make_client_app(), 4)), *overrides, base=base)[1]
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, rtol=1e-5, atol=1e-6 * max(1.0, np.abs(array).max()))


class Hostile:
    """Passes messages on, but node 2 answers as `spoil` says."""

    def __init__(self, spoil: str) -> None:
        self._nodes, self._spoil = LocalTransport(3), spoil

    def ids(self) -> list[int]:
        return self._nodes.ids()

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        for node, reply in self._nodes.request(requests, deadline_seconds):
            train = requests[node].header["kind"] == "train"
            if node != 2 or not train:
                yield node, reply
            elif self._spoil == "nan":
                yield node, Message(reply.header, {n: a * np.float32("nan") for n, a in reply.arrays.items()})
            elif self._spoil == "shape":
                yield node, Message(reply.header, {n: a[:1] for n, a in reply.arrays.items()})
            elif self._spoil == "stale":
                yield node, Message({**reply.header, "round": reply.header["round"] - 1}, reply.arrays)
            elif self._spoil == "twice":
                yield node, reply
                yield node, reply
            elif self._spoil == "stranger":
                yield node, reply
                yield 777, reply


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("nan", "not finite"),
        ("shape", "another shape"),
        ("stale", "round"),
        ("silent", "no answer before the deadline"),
    ],
)
def test_a_bad_node_is_dropped_named_and_counted_and_the_run_goes_on(tmp_path: Path, spoil: str, said: str) -> None:
    rounds, state = played(tmp_path, Hostile(spoil), "model=mf", "rounds=3")
    assert len(rounds) == 3 and all(np.isfinite(a).all() for a in state.values())
    for report in rounds:
        assert report.rejected.keys() == {2} and said in report.rejected[2]
        assert report.answered == 27  # 40 devices, 13 of them on node 2


@pytest.mark.parametrize("spoil", ["twice", "stranger"])
def test_a_second_or_unasked_answer_changes_nothing(tmp_path: Path, spoil: str) -> None:
    honest = played(tmp_path / "a", LocalTransport(3), "model=mf", "rounds=2")[1]
    rounds, state = played(tmp_path / "b", Hostile(spoil), "model=mf", "rounds=2")
    assert all(report.answered == 40 for report in rounds)
    assert all(np.array_equal(state[name], honest[name]) for name in honest)


def test_dropouts_leave_fewer_answers_and_too_few_release_nothing(tmp_path: Path) -> None:
    rounds, _ = played(tmp_path / "a", LocalTransport(2), "model=mf", "rounds=2", "cohort.dropout=0.5")
    assert all(report.cohort == 40 and 8 < report.answered < 32 and report.released for report in rounds)
    rounds, state = played(
        tmp_path / "b", LocalTransport(2), "model=mf", "rounds=2", "cohort.dropout=0.5", "cohort.minimum=39"
    )
    experiment, dataset = small("model=mf", "rounds=2")
    first = experiment.algorithm.init(experiment.build_model(dataset.catalogue), dataset.catalogue)
    assert not any(report.released for report in rounds)
    assert all(np.array_equal(state[name], first[name]) for name in first)


def test_dropouts_change_neither_noise_nor_epsilon(tmp_path: Path) -> None:
    """Invariant I6: the same epsilon at every rate of absence, and each round steps, however few came."""
    spent = list[float | None]()
    for place, extra in enumerate(([], ["cohort.dropout=0.5"], ["cohort.dropout=0.9", "cohort.minimum=39"])):
        base = [*SMALL, "privacy=user", "cohort.size=20"]
        rounds, _ = played(tmp_path / str(place), LocalTransport(2), "model=mf", "rounds=3", *extra, base=base)
        spent.append(rounds[-1].epsilon)
        assert all(report.released for report in rounds)
    assert spent[0] is not None and spent[0] == spent[1] == spent[2] and spent[0] <= 8.0


def test_a_deadline_bounds_a_slow_node(tmp_path: Path) -> None:
    rounds, _ = played(tmp_path, LocalTransport(2), "model=mf", "rounds=1", "cohort.deadline_seconds=1e-9")
    assert rounds[0].answered == 0 and set(rounds[0].rejected.values()) == {"no answer before the deadline"}


def test_no_node_and_another_version_are_named(tmp_path: Path) -> None:
    class Empty(LocalTransport):
        def ids(self) -> list[int]:
            return []

    class Old(LocalTransport):
        def request(
            self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
        ) -> Iterator[tuple[int, Message]]:
            for node, reply in super().request(requests, deadline_seconds):
                yield node, Message({**reply.header, "fedrec": "0.0.9"}, reply.arrays)

    with pytest.raises(FedrecError, match="no node answered"):
        played(tmp_path / "a", Empty(), "model=mf")
    with pytest.raises(FedrecError, match=r"node 1 runs fedrec 0.0.9"):
        played(tmp_path / "b", Old(), "model=mf")


def test_pairs_without_an_argument_are_refused_by_name() -> None:
    """Invariant P3: the whole cross product either carries noise or is refused."""
    verdicts = dict[tuple[str, str], bool]()
    for model in ("mf", "neumf", "content", "popularity", "ease"):
        for privacy in ("none", "user", "interaction"):
            try:
                small(f"model={model}", base=[*SMALL, f"privacy={privacy}"])
                verdicts[model, privacy] = True
            except RefusedError as reason:
                assert "GramMatrix" in str(reason) and "InteractionLevel" in str(reason)
                verdicts[model, privacy] = False
    assert [pair for pair, fine in verdicts.items() if not fine] == [("ease", "interaction")]


def test_an_algorithm_names_the_models_that_it_takes() -> None:
    with pytest.raises(RefusedError, match=r"ItemCounts works for Popularity, not for MatrixFactorization"):
        small("model=mf", "algorithm=counts")


def test_best_needs_no_privacy(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="privacy=none"):
        small("model=mf", "evaluation.select=best", base=[*SMALL, "privacy=user"])
    experiment, dataset = small("model=mf", "rounds=14", "evaluation.every=1", "evaluation.select=best")
    with session(experiment, dataset, tmp_path) as opened:
        rounds = list(run(opened))
        best = max(rounds, key=lambda report: (report.validation or 0, -report.round))
        number, state = load_released_state(opened)
        assert number == best.round
        # The private vectors of that round come back with it, though training went on.
        again = opened.evaluate(state, "validation", number)["full_ndcg@10"].mean()
        assert abs(again - (best.validation or 0)) < 1e-9


def test_every_yaml_of_an_algorithm_runs(tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "conf" / "algorithm"
    model = {"counts": "popularity", "gram": "ease", "ials": "ials", "neighbours": "item_knn", "order": "order"}
    model["sequences"] = "sasrec"
    for path in sorted(folder.glob("*.yaml")):
        rounds, state = played(
            tmp_path / path.stem,
            LocalTransport(1),
            f"model={model.get(path.stem, 'mf')}",
            f"algorithm={path.stem}",
            "rounds=2",
        )
        assert rounds[-1].released and all(np.isfinite(array).all() for array in state.values())
    assert load([]).experiment.algorithm
