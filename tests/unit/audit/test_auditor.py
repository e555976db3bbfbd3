"""The audit finds what is there, and finds out what is not: each planted fault makes it fail."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dp_accounting.gaussian_mechanism import get_sigma_gaussian
from scipy.stats import norm

from fedrec.audit import auditor as module
from fedrec.audit.auditor import Audit, audit, lines, run, trials
from fedrec.audit.findings import Errors, Finding, beats, epsilon_at_least, errors
from fedrec.audit.poisson_check import DRAWS, UNITS, p_values
from fedrec.audit.threat_model import Canaries, threat_model_of
from fedrec.audit.trials import Trial, noise_verdict
from fedrec.cli.main import main
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import load
from fedrec.privacy.accounting.interpretation import TradeOff, trade_off
from fedrec.privacy.clipping import NormClipper
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Unit
from fedrec.privacy.ledger import ledger
from fedrec.privacy.mechanisms import base
from fedrec.privacy.mechanisms.gateway import GatewayLevel
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from tests.support.tiny import SMALL

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = {"user": 1500, "interaction": 6000}


def made(*overrides: str) -> list[Trial]:
    """Return the trials at epsilon 8 of a small configuration."""
    experiment = load([*SMALL, *overrides]).experiment
    dataset = load_dataset(experiment)
    ready = experiment.calibrated(dataset)
    unit = ready.mechanism.terms.unit
    return trials(experiment, ready.plan(dataset), ready.mechanism, [8.0], QUICK[unit])


def trial(kind: str, *overrides: str) -> Finding:
    return next(t for t in made(*overrides) if t.kind == kind).run()


def gaussian(epsilon: float) -> float:
    """Return the distance mu of the Gaussian mechanism with this epsilon at delta 1e-5."""
    return 1 / float(get_sigma_gaussian(epsilon, 1e-5))


def scores(mu: float, size: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, size), rng.normal(mu, 1, size)


@pytest.mark.parametrize("epsilon", [4.0, 8.0])
def test_the_bound_is_tight_and_below_the_truth(epsilon: float) -> None:
    mu = gaussian(epsilon)
    found = epsilon_at_least(errors(*scores(mu), mu / 2), 1e-5)
    assert 0.95 * epsilon <= found <= epsilon


def test_the_bound_notices_five_per_cent() -> None:
    mu = gaussian(8.0)
    absent, present = scores(mu / 0.95)
    assert epsilon_at_least(errors(absent * 0.95, present * 0.95, mu / 2), 1e-5) > 8


def test_bounds_at_the_ends() -> None:
    assert epsilon_at_least(Errors(50, 100, 50, 100), 1e-5) == 0
    assert epsilon_at_least(Errors(100, 100, 0, 100), 1e-5) == 0
    assert 10 < epsilon_at_least(Errors(0, 1000, 0, 1000), 1e-5) < 100
    assert Errors(0, 10, 10, 10).fnr_at_most(0.1) == 1
    assert Errors(0, 10, 10, 10).fpr_at_most(0.1) == pytest.approx(1 - 0.1 ** (1 / 10))


def test_the_curve_is_that_of_the_gaussian() -> None:
    """Invariants P23 and P27: .255 at 1 % false alarms and AUC .88 for epsilon 8."""
    for epsilon, tpr, auc in ((1.0, 0.0198, 0.58), (8.0, 0.255, 0.88)):
        mu = gaussian(epsilon)
        curve = trade_off(frozenset({(1 / mu, 1.0, 1)}))
        exact = norm.cdf(norm.ppf([0.01, 0.3]) + mu)
        np.testing.assert_allclose(curve.largest_tpr(np.array([0.01, 0.3])), exact, rtol=2e-3)
        assert (curve.largest_tpr(np.array([0.01, 0.3])) >= exact).all()
        assert curve.largest_tpr(0.01)[0] == pytest.approx(tpr, abs=5e-4)
        assert curve.largest_auc() == pytest.approx(auc, abs=6e-3) and curve.largest_auc() >= norm.cdf(mu / 2**0.5)


def test_the_curve_without_noise_or_without_spending() -> None:
    assert trade_off(frozenset()).largest_tpr(0.3)[0] == pytest.approx(0.3)
    assert trade_off(frozenset({(0.0, 1.0, 1)})).largest_tpr(0.0)[0] == 1


def test_a_test_beats_a_curve_only_when_it_does() -> None:
    curve = trade_off(frozenset({(1.0, 1.0, 1)}))
    for threshold in (-0.5, 0.5, 1.5):
        assert not beats(errors(*scores(1.0), threshold), curve)
        assert beats(errors(*scores(1.1), threshold), curve)
    assert beats(Errors(0, 1000, 0, 1000), curve)
    assert not beats(Errors(500, 1000, 500, 1000), TradeOff(np.zeros(1), np.zeros(1)))


@pytest.mark.parametrize("privacy", ["user", "interaction"])
@pytest.mark.parametrize("model", ["mf", "popularity"])
def test_what_is_reported_holds(privacy: str, model: str) -> None:
    found = trial("noise", f"privacy={privacy}", f"model={model}")
    assert found.verdict in ("holds", "loose")
    assert 7.9 < found.reported <= 8.0 and 0.7 * found.reported < found.measured <= found.reported


def less_noise(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    finish = UserLevel.privatize_aggregate

    def quiet_finish(self: Any, *arguments: Any) -> Any:
        return finish(replace(self, noise_multiplier=self.noise_multiplier * factor), *arguments)

    def quiet_steps(dp_sgd: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda self: replace(dp_sgd(self), noise_multiplier=self.noise_multiplier * factor)

    monkeypatch.setattr(UserLevel, "privatize_aggregate", quiet_finish)
    for kind in (GatewayLevel, InteractionLevel):
        monkeypatch.setattr(kind, "dp_sgd", quiet_steps(kind.dp_sgd))


@pytest.mark.parametrize("privacy", ["user", "interaction"])
def test_too_little_noise_contradicts(privacy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    less_noise(monkeypatch, 0.75)
    assert trial("noise", f"privacy={privacy}", "model=mf").verdict == "contradicted"


def test_a_clip_that_does_nothing_contradicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NormClipper, "lengths", lambda self, grid: dict.fromkeys(self.bounds, 100 * grid.length))
    monkeypatch.setattr(NormClipper, "factors", lambda self, squares: {n: np.ones_like(s) for n, s in squares.items()})
    monkeypatch.setattr(UserLevel, "reach", lambda self, count, grid: 100 * count * grid.length)
    assert trial("noise", "privacy=user", "model=mf").verdict == "contradicted"


def test_a_ledger_that_forgets_a_round_contradicts(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = ledger.compute_spend
    monkeypatch.setattr(
        ledger, "compute_spend", lambda a, entries, counts, more=frozenset(): real(a, entries[-2:], counts)
    )
    assert trial("noise", "privacy=user", "model=mf").verdict == "contradicted"


@pytest.mark.parametrize(
    "overrides",
    [
        ["privacy=user", "cohort.size=12"],
        ["privacy=interaction", "privacy.sample_rate=0.3"],
        ["privacy=gateway", "privacy.sample_rate=0.3"],
    ],
    ids=str,
)
def test_sampling_holds_and_its_faults_show(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert trial("sampled", *overrides, "model=mf").verdict == "holds"
    if overrides[0] != "privacy=gateway":
        assert trial("sampler", *overrides, "model=mf").verdict == "holds"
    less_noise(monkeypatch, 0.7)
    assert trial("sampled", *overrides, "model=mf").verdict == "contradicted"


def test_only_sampled_events_get_trials_of_sampling() -> None:
    assert [t.kind for t in made("privacy=user", "model=mf")] == ["noise"]
    kinds = made("privacy=user", "model=mf", "cohort.size=12")
    assert [t.kind for t in kinds] == ["noise", "sampled", "sampler"] and kinds[1].rate == pytest.approx(0.3)


def fixed_size(rng: np.random.Generator) -> np.ndarray:
    return rng.random((DRAWS, UNITS)).argsort(axis=1) < UNITS * 0.25


def shuffled(rng: np.random.Generator) -> np.ndarray:
    batch = np.concatenate(
        [rng.permuted(np.repeat(np.arange(4)[None], UNITS, 0), axis=1) for _ in range(DRAWS // 4)], 1
    )
    return batch.T == 0


def paired(rng: np.random.Generator) -> np.ndarray:
    return np.repeat(rng.random((DRAWS, UNITS // 2)) < 0.25, 2, axis=1)


def favoured(rng: np.random.Generator) -> np.ndarray:
    return rng.random((DRAWS, UNITS)) < np.linspace(0.2, 0.3, UNITS)


@pytest.mark.parametrize(
    ("faulty", "what"),
    [
        (fixed_size, "spread of the size"),
        (shuffled, "rounds next to each other"),
        (paired, "units next to each other"),
        (favoured, "rate of each unit"),
        (lambda rng: rng.random((DRAWS, UNITS)) < 0.255, "overall rate"),
    ],
)
def test_draws_that_are_not_poisson_are_noticed(faulty: Callable[..., np.ndarray], what: str) -> None:
    rng = np.random.default_rng(3)
    assert min(p_values(rng.random((DRAWS, UNITS)) < 0.25, 0.25).values()) > 1e-3
    assert p_values(faulty(rng), 0.25)[what] < 1e-6


def test_a_cohort_of_fixed_size_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def choice(plan: TrainingPlan, random: Any) -> np.ndarray:
        return np.sort(np.argsort(random.uniform(plan.population))[: int(plan.cohort_rate * plan.population)])

    monkeypatch.setattr(base, "poisson_cohort", choice)
    assert trial("sampler", "privacy=user", "model=mf", "cohort.size=12").verdict == "contradicted"


def test_terms_without_a_game_are_refused_by_name() -> None:
    with pytest.raises(RefusedError, match="no audit for trust moon, unit user, add-remove"):
        threat_model_of(
            PrivacyGuarantee(Unit.USER, Relation.ADD_REMOVE, "moon"),  # type: ignore[arg-type]
            5,
        )


@pytest.mark.parametrize("canaries", [Canaries(3, 7, each=2), Canaries(4, 3, each=3, apart=False, signed=True)])
def test_canaries_are_where_the_game_says(canaries: Canaries) -> None:
    devices = canaries.load().devices
    for user, device in enumerate(devices):
        first = user * canaries.each if canaries.apart else 0
        assert device.history.tolist() == list(range(first, first + canaries.each))
        assert set(device.values) == {-1.0 if canaries.signed and user % 2 else 1.0}
    with pytest.raises(FedrecError, match="need"):
        Canaries(3, 5, each=2)


def test_verdicts() -> None:
    assert [noise_verdict(8.0, m) for m in (8.01, 7.9, 7.0)] == ["contradicted", "holds", "loose"]
    assert noise_verdict(math.inf, 40.0) == "no claim"


def test_in_processes_of_their_own_or_not_it_is_the_same_audit() -> None:
    small = [replace(t, canaries=300) for t in made("privacy=interaction", "model=mf")]
    apart, here = run(small, 2)[0], run(small, 1)[0]
    assert apart.reported == here.reported and apart.trial == here.trial == "noise"


def status_of(arguments: list[str]) -> object:
    try:
        main(arguments)
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.parametrize("verdict", ["holds", "contradicted"])
def test_what_a_user_reads(verdict: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stub(experiment: Any, points: Any, numbers: Any) -> Audit:
        findings = tuple(Finding("noise", verdict, p, 0.98 * p, "many scores") for p in points)
        return Audit("UserLevel", UserLevel().terms, 1e-5, True, findings, 3.0)

    monkeypatch.setattr(module, "audit", stub)
    for extra in ([], ["--json"]):
        assert status_of(["audit", *SMALL, "privacy=user", *extra]) == (verdict == "contradicted")
    text, _, values = capsys.readouterr().out.partition("{")
    assert all(said in text for said in ("unit: one user", "add-remove", "delta 1e-05", "trusts the server", verdict))
    assert "0.980" in text and json.loads("{" + values)["verdict"] == verdict


def test_wrong_arguments_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["audit", "nowhere"], "nowhere/config.yaml does not exist"),
        (["audit", "nowhere", "seed=1"], "leave out the other arguments"),
        (["audit", "privcy=user"], "Did you mean"),
        (["audit", "privacy=user", "--epsilon", "99"], "between 0.5 and 20"),
        (["audit", *SMALL, "model=ease", "privacy=interaction"], "no argument together"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2 and said in capsys.readouterr().err


def test_the_table_of_no_privacy_claims_nothing() -> None:
    found = audit(load([*SMALL, "privacy=none", "model=mf"]).experiment, canaries=100, jobs=1)
    assert found.verdict == "no claim" and found.json()["trials"][0]["reported"] is None
    assert "Nothing is claimed" in "\n".join(lines(found))
