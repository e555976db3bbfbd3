"""The attack on released numbers finds nothing in what is released, and each planted fault that no projection shows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.audit import hearing
from fedrec.audit.auditor import audit, possibility, row
from fedrec.audit.findings import Finding
from fedrec.audit.hearing import beyond
from fedrec.audit.possibility import cell_of, curve_points
from fedrec.audit.threat_model import threat_model_of
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import load
from fedrec.privacy.grid import Grid
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.mechanisms.base import Aggregate, noised_aggregate
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.release import Release
from tests.support.tiny import SMALL

pytestmark = pytest.mark.filterwarnings("ignore")
NUMBERS = 8_000
CASES = ["user model=mf", "user_adaptive model=mf", "banded model=mf", "gateway model=popularity"]
CASES += ["interaction model=popularity", "user model=popularity", "interaction model=mf", "gateway model=mf"]
Noised = Callable[[Release, Any, Any], Release]


def attacked(case: str, numbers: int = NUMBERS, point: float = 4.0) -> Finding:
    """Return what the attack finds of a mechanism and a model."""
    experiment = load([*SMALL, *f"privacy={case}".split()]).experiment
    dataset = load_dataset(experiment)
    ready = experiment.calibrated(dataset)
    return possibility(experiment, ready.plan(dataset), ready.mechanism, point, numbers).run()


@pytest.mark.parametrize("case", CASES)
def test_nothing_that_is_released_is_impossible(case: str) -> None:
    found = attacked(case)
    assert found.verdict == "holds" and found.detail.startswith("0 of ") and "floating point" not in found.detail
    assert any(alarms > 0.005 and 0.3 * allowed < share <= allowed for alarms, share, _, allowed in found.points)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "user_local model=popularity", "user_local model=mf", "user_secure model=mf"])
def test_nothing_is_impossible_in_many_numbers(case: str) -> None:
    assert attacked(case, 1_000_000).verdict == "holds"


def test_each_device_heard_alone() -> None:
    found = attacked("user_local model=popularity", 1_500)
    assert found.verdict == "holds" and found.detail.startswith("0 of ")


def in_floats(real: Noised) -> Noised:
    """Noise of floats on the whole numbers."""
    return lambda self, v, random: replace(self, arrays={n: a + random.gaussian(a.shape, 9.0) for n, a in whole(self)})


def on_what_is_there(real: Noised) -> Noised:
    """No noise where nobody contributed."""
    return lambda self, v, random: replace(
        self, arrays={n: np.where(a == 0, 0, real(self, v, random).arrays[n]) for n, a in whole(self)}
    )


def even(real: Noised) -> Noised:
    """Noise of the right size in steps of two: the last bit is that of the sum."""
    return lambda self, v, random: replace(
        self, arrays={n: a + (real(self, v, random).arrays[n] - a) // 2 * 2 for n, a in whole(self)}
    )


def short(real: Noised) -> Noised:
    """Noise that ends at a deviation and a half."""

    def cut(self: Release, variance: Any, random: Any) -> Release:
        arrays = dict[str, Any]()
        for name, array in real(self, variance, random).arrays.items():
            edge = int(1.5 * (variance if isinstance(variance, int) else variance[name]) ** 0.5)
            arrays[name] = self.arrays[name] + np.clip(array - np.asarray(self.arrays[name]), -edge, edge)
        return replace(self, arrays=arrays)

    return cut


def whole(release: Release) -> list[tuple[str, Any]]:
    return [(name, np.asarray(array)) for name, array in release.arrays.items()]


@pytest.mark.parametrize("case", ["banded model=mf", "gateway model=popularity"])
@pytest.mark.parametrize("fault", [on_what_is_there, even, short])
def test_a_law_that_is_not_the_accounted_one_is_found(
    case: str, fault: Callable[[Noised], Noised], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Release, "noised", fault(Release.noised))
    found = attacked(case)
    assert found.verdict == "contradicted"
    assert fault is not even or "not equally likely" in found.detail


@pytest.mark.parametrize("case", ["user model=mf", "gateway model=popularity", "interaction model=popularity"])
def test_noise_in_floating_point_does_not_leave(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Release, "noised", in_floats(Release.noised))
    with pytest.raises(FedrecError, match=r"holds float(32|64) numbers"):
        attacked(case)


def test_contributions_that_are_not_on_the_grid_do_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.privacy.contributions import OneUpdate

    def unrounded(self: OneUpdate, scales: Any) -> Any:
        return {name: np.asarray(array) * scales[name][0] for name, array in self._items()}

    monkeypatch.setattr(OneUpdate, "whole_sum", unrounded)
    with pytest.raises(FedrecError, match="whole ones alone may leave"):
        attacked("gateway model=popularity")


@pytest.mark.parametrize("case", ["user model=popularity", "banded model=mf"])
def test_a_state_that_is_not_made_of_whole_numbers_is_impossible(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers are shown, and others go into the model."""
    real = Grid.values
    rng = np.random.default_rng(0)
    monkeypatch.setattr(Grid, "values", lambda self, a: real(self, a) + rng.normal(0, 0.01 * self.clip, np.shape(a)))
    found = attacked(case)
    assert found.verdict == "contradicted" and not found.detail.startswith("0 of ")


def test_a_round_that_shows_nothing_is_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(self: Any, total: Any, plan: Any, *more: Any) -> Aggregate:
        return replace(noised_aggregate(total, self.multiplier(), plan.expected_cohort, more[1]), release=None)

    monkeypatch.setattr(UserLevel, "privatize_aggregate", hidden)
    found = attacked("user model=mf")
    assert found.verdict == "contradicted" and "in floating point" not in found.detail


def test_numbers_further_out_than_any_noise_are_counted() -> None:
    numbers = np.random.default_rng(0).normal(0, 100, (3, 1000)).astype(np.int64)
    assert beyond(numbers, 50) == 0 and beyond(numbers[:0], 50) == 0
    numbers[1, 5:8] = 10**6
    assert beyond(numbers, 50) == 3 and beyond(np.zeros((1, 10), np.int64), 50) == 0


def test_thresholds_come_from_the_other_half() -> None:
    rng = np.random.default_rng(1)
    learned = rng.normal(0, 1, 50_000), rng.normal(1, 1, 50_000)
    points = curve_points(learned, (learned[0] * 3, learned[1]))
    rates = {rate: found.false_positives / found.absent for rate, found in points}
    assert rates[0.1] > 0.3 and points[0][1].absent == 50_000


def test_cells_hold_the_last_bits_and_zero() -> None:
    seen: Any = type("View", (), {"whole": np.array([[0, 1, 17, -1, 160]])})
    cells = cell_of(seen, 100.0)[0]
    assert len(set(cells)) == 4 and cells[1] == cells[2] and cells[0] == cells.max()


def test_a_wider_game_has_no_more_canaries() -> None:
    for trust, unit, relation in (
        (Trust.SERVER, Unit.USER, Relation.ADD_REMOVE),
        (Trust.SUMS, Unit.USER, Relation.ADD_REMOVE),
        (Trust.DEVICE, Unit.USER, Relation.REPLACE_ONE),
        (Trust.DEVICE, Unit.INTERACTION, Relation.ADD_REMOVE),
    ):
        game = threat_model_of(PrivacyGuarantee(unit, relation, trust), 30)
        wide = game.widened(10_000)
        assert wide.numbers >= 9_900 > game.numbers and game.widened(10) == game
        hosted = np.arange(wide.devices)
        assert wide.present(hosted).sum() == game.present(hosted).sum()


def test_the_audit_looks_at_released_numbers_and_says_what_it_saw() -> None:
    found = audit(load([*SMALL, "privacy=user", "model=mf"]).experiment, (8.0,), 100, 1, NUMBERS)
    assert [finding.trial for finding in found.findings] == ["noise", "possible"]
    said = " ".join(row(found.findings[1]))
    assert "0 of 8,000 released numbers impossible" in " ".join(said.split())
    points = found.json()["trials"][1]["points"]
    assert points and all(len(point) == 4 for point in points)


def test_floats_are_said_to_be_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing.ExpectedUpdate, "form", None)
    monkeypatch.setattr(hearing, "flat", lambda arrays, mechanism: np.zeros(10))
    assert hearing.hear_replies([None], hearing.ExpectedUpdate(UserLevel(), {}), 10).whole is None
