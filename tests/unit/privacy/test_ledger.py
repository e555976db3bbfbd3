"""The ledger: charged before, refused in time, never refunded, and whole after a kill at any moment."""

import hashlib
import json
import math
import os
import random
import signal
import sqlite3
import stat
import time
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import FedrecError, RefusedError
from fedrec.paths import ledger_path, state_dir
from fedrec.privacy.accounting.composition import compute_epsilon, epsilon_of_events, running_epsilon
from fedrec.privacy.guarantee import Relation
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.ledger.store import FIRST
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.mechanisms.user_local import UserLocal

PLAN = TrainingPlan(population=40, interactions=400, cohort_rate=1.0, rounds=4, trains=True)
SOME = np.array([1, 3])


def user(plan: TrainingPlan = PLAN, **settings: object) -> Mechanism:
    return UserLevel(epsilon=2.0, **settings).calibrated(plan, math.inf)  # type: ignore[arg-type]


def interaction(plan: TrainingPlan = PLAN, **settings: object) -> Mechanism:
    return InteractionLevel(epsilon=2.0, **settings).calibrated(plan, math.inf)  # type: ignore[arg-type]


def opened(mechanism: Mechanism, run: str = "run", plan: TrainingPlan = PLAN, limit: float | None = None) -> Ledger:
    return Ledger.open("people", run, mechanism, plan, plan.population, limit)


def play(ledger: Ledger, *rounds: int, cohort: np.ndarray = SOME) -> None:
    for number in rounds:
        ledger.reserve(number)
        ledger.commit(number, cohort)


def test_a_run_spends_its_budget_and_no_more() -> None:
    mechanism = user()
    ledger = opened(mechanism)
    spent = [ledger.epsilon()]
    for number in range(1, 5):
        play(ledger, number)
        spent.append(ledger.epsilon())
        assert spent[-1] == pytest.approx(
            epsilon_of_events([(mechanism.event(PLAN, 1), number)], mechanism.delta_for(PLAN)), rel=1e-3
        )
        assert ledger.projection(number) == pytest.approx(spent[-1], rel=1e-3)
    assert spent[0] == 0
    assert spent == sorted(spent)
    assert 1.98 <= spent[-1] <= 2.0
    assert not ledger.affordable(mechanism.event(PLAN, 5))
    with pytest.raises(
        RefusedError,
        match=r"round 5 of run .* after epsilon (1\.99|2\.00).* privacy\.epsilon=2\.0 \(unit: one user; add-remove",
    ):
        ledger.reserve(5)
    assert [row["status"] for row in ledger.rows()] == ["committed"] * 4


def test_a_reserved_round_is_charged_at_once_and_for_ever() -> None:
    ledger = opened(user())
    ledger.reserve(1)
    charged = ledger.epsilon()
    assert charged > 0
    ledger.close()
    again = opened(user())
    assert again.epsilon() == charged
    assert [row["status"] for row in again.rows()] == ["lost"]
    play(again, 1, 2, 3)
    with pytest.raises(RefusedError, match="1 rounds were lost and stay charged"):
        again.reserve(4)
    assert [(row["round"], row["status"]) for row in again.rows()] == [
        (1, "lost"),
        (1, "committed"),
        (2, "committed"),
        (3, "committed"),
    ]


def test_a_round_is_released_once() -> None:
    ledger = opened(user())
    with pytest.raises(RefusedError, match="not reserved"):
        ledger.commit(1, SOME)
    ledger.reserve(1)
    with pytest.raises(FedrecError, match="still reserved"):
        ledger.reserve(2)
    with pytest.raises(RefusedError, match="not reserved"):
        ledger.commit(2, SOME)
    ledger.commit(1, SOME)
    with pytest.raises(RefusedError, match="released already"):
        ledger.reserve(1)
    with pytest.raises(RefusedError, match="not reserved"):
        ledger.commit(1, SOME)


def test_another_process_that_opens_the_run_takes_it_over() -> None:
    first = opened(user())
    first.reserve(1)
    opened(user()).close()
    with pytest.raises(RefusedError, match="not reserved"):
        first.commit(1, SOME)
    assert [row["status"] for row in first.rows()] == ["lost"]


def test_a_refused_round_charges_nothing() -> None:
    ledger = opened(user(), limit=0.5)
    with pytest.raises(RefusedError, match=r"privacy\.population_epsilon=0\.5"):
        ledger.reserve(1)
    assert ledger.epsilon() == 0
    assert ledger.rows() == []
    assert opened(user(), limit=0.5).rows() == []


def test_devices_are_charged_what_they_joined() -> None:
    plan = replace(PLAN, cohort_rate=0.5, rounds=6)
    mechanism = interaction(plan, max_participations=2)
    ledger = opened(mechanism, plan=plan)
    once = epsilon_of_events([(mechanism.event(plan, 1), 1)], mechanism.delta_for(plan))
    play(ledger, 1, cohort=np.array([1, 2, 2]))
    play(ledger, 2, cohort=np.array([], np.int64))
    play(ledger, 3, cohort=np.array([3]))
    assert ledger.epsilon() == pytest.approx(once, rel=1e-3)
    assert not ledger.exhausted().any()
    play(ledger, 4, cohort=np.array([1]))
    assert np.flatnonzero(ledger.exhausted()).tolist() == [1]
    assert 1.98 <= ledger.epsilon() <= 2.0
    ledger.reserve(5)
    with pytest.raises(FedrecError, match="took part as often"):
        ledger.commit(5, np.array([1]))
    ledger.commit(5, np.array([2, 4]))
    assert np.flatnonzero(ledger.exhausted()).tolist() == [1, 2]
    assert ledger.epsilon() <= 2.0


def test_a_lost_round_is_charged_to_every_device_that_could_have_been_drawn() -> None:
    plan = replace(PLAN, cohort_rate=0.5, rounds=6)
    mechanism = interaction(plan, max_participations=2)
    ledger = opened(mechanism, plan=plan)
    play(ledger, 1, 2, cohort=np.array([1]))
    ledger.reserve(3)
    ledger.close()
    ledger = opened(mechanism, plan=plan)
    assert np.flatnonzero(ledger.exhausted()).tolist() == [1]
    assert ledger.epsilon() <= 2.0
    play(ledger, 3, cohort=np.array([5]))
    assert np.flatnonzero(ledger.exhausted()).tolist() == [1, 5]
    ledger.reserve(4)
    ledger.close()
    ledger = opened(mechanism, plan=plan)
    assert ledger.exhausted().all()
    with pytest.raises(RefusedError, match="every device has taken part 2 times"):
        ledger.reserve(5)
    assert not ledger.affordable(mechanism.event(plan, 5))


def test_other_terms_on_reopening_are_refused() -> None:
    opened(user()).close()
    for mechanism in (UserLevel(epsilon=3.0).calibrated(PLAN, math.inf), user(delta=1e-6), NoPrivacy()):
        with pytest.raises(RefusedError, match="other terms"):
            opened(mechanism)
    with pytest.raises(RefusedError, match="rounds"):
        opened(user(), plan=replace(PLAN, rounds=5))
    opened(user())


def test_runs_on_the_same_people_add_up() -> None:
    one = opened(user(), "one")
    play(one, 1, 2)
    alone = one.population_total().epsilon
    assert alone == pytest.approx(one.epsilon(), rel=1e-3)
    two = opened(user(), "two")
    play(two, 1, 2)
    assert two.population_total().epsilon > alone * 1.3
    assert two.population_total().epsilon == pytest.approx(
        epsilon_of_events([(user().event(PLAN, 1), 4)], user().delta_for(PLAN)), rel=1e-3
    )
    assert two.population_total() == one.population_total()
    elsewhere = Ledger.open("others", "one", user(), PLAN, PLAN.population)
    assert elsewhere.population_total().epsilon == 0


def mu_epsilon(delta: float, *mus: float) -> float:
    """Return epsilon at delta of Gaussians that lie so many deviations apart, by the closed form of Balle & Wang."""
    mu = math.hypot(*mus)

    def found(epsilon: float) -> float:
        cdf = NormalDist().cdf
        return cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * cdf(-mu / 2 - epsilon / mu)

    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if found(middle) > delta else (low, middle)
    return high


def test_units_relations_and_mechanisms_come_to_one_total() -> None:
    """Whatever hides that a user is there lets the user's data change twice as far; what is replaced is so already."""
    added, replaced = user(), UserLocal(epsilon=2.0).calibrated(PLAN, math.inf)
    one, two = opened(added, "one"), opened(replaced, "two")
    play(one, 1, 2, 3, 4)
    play(two, 1, 2, 3, 4)
    total = two.population_total()
    assert (total.terms.unit, total.terms.relation, total.runs) == ("user", "replace-one", 2)
    assert added.noise_multiplier is not None and replaced.noise_multiplier is not None
    far = 2 * math.sqrt(4)
    expected = mu_epsilon(total.delta, far / added.noise_multiplier, far / replaced.noise_multiplier)
    assert expected <= total.epsilon <= expected + 3e-3
    assert total.epsilon > 2 * one.epsilon()
    plan = replace(PLAN, rounds=1, trains=False, interactions=10**6)
    statistic = InteractionLevel(epsilon=2.0).calibrated(plan, 1.0)
    three = opened(statistic, "three", plan)
    play(three, 1)
    last = three.population_total()
    assert (last.terms.unit, last.terms.relation, last.runs) == ("interaction", "replace-one", 3)
    assert last.delta == statistic.delta_for(plan) < total.delta
    assert statistic.noise_multiplier is not None
    expected = mu_epsilon(
        last.delta, far / added.noise_multiplier, far / replaced.noise_multiplier, 2 / statistic.noise_multiplier
    )
    assert expected <= last.epsilon <= expected + 3e-3
    assert one.population_total() == last


def test_what_is_sampled_is_replaced_as_the_accountant_says() -> None:
    drawn = replace(PLAN, cohort_rate=0.25)
    mechanism = user(drawn)
    one, two = opened(mechanism, "one", drawn), opened(UserLocal(epsilon=1.0).calibrated(PLAN, math.inf), "two")
    play(one, 1, 2, 3, 4)
    total = one.population_total()
    assert total.terms.relation == "add-remove" and total.epsilon == pytest.approx(one.epsilon(), rel=1e-3)
    play(two, 1)
    ((replaced, _, _),) = two.total
    assert mechanism.noise_multiplier is not None
    parts = frozenset({(mechanism.noise_multiplier, 0.25, 4), (2 * replaced, 1.0, 1)})
    assert two.population_total().epsilon == pytest.approx(
        compute_epsilon(parts, two.population_total().delta, relation=Relation.REPLACE_ONE), abs=2e-3
    )


def test_a_run_that_protects_nobody_makes_the_total_infinite() -> None:
    one = opened(user(), "one")
    play(one, 1)
    before = one.population_total().epsilon
    opened(NoPrivacy(), "open").close()
    play(opened(NoPrivacy(), f"one-{'0' * 16}baselines/no_privacy"), 1)
    assert one.population_total().epsilon == before, "it released nothing yet, and the twin never will"
    play(opened(NoPrivacy(), "open"), 1)
    assert one.population_total().epsilon == math.inf
    play(opened(user(randomness="seeded"), "seeded"), 1)
    assert one.population_total().sentence() == "epsilon is infinite: open, seeded protected nobody"
    limited = opened(user(), "limited", limit=1e6)
    with pytest.raises(RefusedError, match=r"open, seeded protected nobody, more than privacy\.population_epsilon"):
        limited.reserve(1)
    assert limited.rows() == []


def test_the_limit_binds_all_units_together() -> None:
    """Three runs at epsilon 2, each within the limit alone."""
    play(opened(user(), "one", limit=2.05), 1, 2, 3, 4)
    for number, mechanism in enumerate((UserLocal(epsilon=2.0).calibrated(PLAN, math.inf), interaction())):
        other = opened(mechanism, f"other{number}", limit=2.05)
        with pytest.raises(RefusedError, match=r"all runs on these users .* replace-one"):
            other.reserve(1)
        assert other.rows() == []
        play(opened(mechanism, f"open{number}"), 1)


def test_the_population_limit_counts_all_runs() -> None:
    play(opened(user(), "one"), 1, 2, 3, 4)
    two = opened(user(), "two", limit=2.5)
    play(two, 1)
    with pytest.raises(RefusedError, match="all runs on these users"):
        for number in (2, 3, 4):
            play(two, number)
    assert two.population_total().epsilon <= 2.5


def test_what_has_no_guarantee_is_listed_and_never_stopped() -> None:
    ledger = opened(NoPrivacy())
    play(ledger, 1, 2, 3)
    assert ledger.epsilon() == math.inf == ledger.projection(3)
    assert ledger.rows()[0]["event"] == [{"noise_multiplier": 0.0, "sampling_rate": 1.0, "count": 1}]
    for mechanism in (user(randomness="seeded"), interaction(randomness="seeded")):
        seeded = opened(mechanism, mechanism.terms.unit)
        play(seeded, 1, 2, 3, 4, 5)
        assert seeded.epsilon() == math.inf == seeded.projection(1)
        assert not seeded.exhausted().any()
        assert seeded.population_total().epsilon == math.inf


def test_shares_are_charged_round_by_round() -> None:
    plan = replace(PLAN, rounds=2, shares=(0.8, 0.2), trains=False)
    mechanism = UserLevel(epsilon=2.0).calibrated(plan, 1.0)
    ledger = opened(mechanism, plan=plan)
    play(ledger, 1)
    first = ledger.epsilon()
    assert first == pytest.approx(
        epsilon_of_events([(mechanism.event(plan, 1), 1)], mechanism.delta_for(plan)), rel=1e-3
    )
    play(ledger, 2)
    assert first < ledger.epsilon() <= 2.0
    assert ledger.projection(2) == pytest.approx(ledger.epsilon(), rel=1e-3)


def test_entries_are_chained_and_the_cohort_is_hidden() -> None:
    ledger = opened(user())
    play(ledger, 1, 2)
    database = sqlite3.connect(ledger_path("people"))
    rows = database.execute("SELECT run, kind, body, previous, hash FROM entries ORDER BY seq").fetchall()
    previous = FIRST
    for run, kind, body, before, digest in rows:
        assert before == previous
        assert hashlib.sha256("\n".join((previous, run, kind, body)).encode()).hexdigest() == digest
        previous = digest
    assert ledger.head == previous
    assert [kind for _, kind, *_ in rows] == ["open", "reserve", "commit", "reserve", "commit"]
    cohorts = {json.loads(body)["cohort"] for _, kind, body, *_ in rows if kind == "commit"}
    assert len(cohorts) == 1
    assert hashlib.sha256(SOME.astype("<i8").tobytes()).hexdigest() not in cohorts


def test_the_file_is_durable_and_nobody_elses() -> None:
    ledger = opened(user())
    play(ledger, 1)
    folder = state_dir() / "ledger"
    assert folder.parent == Path(os.environ["FEDREC_STATE"])
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert ledger._store._database.execute("PRAGMA synchronous").fetchone() == (2,)  # pyright: ignore[reportPrivateUsage]
    assert ledger._store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)  # pyright: ignore[reportPrivateUsage]


def test_populations_have_files_of_their_own() -> None:
    names = ["a/b", "a_b", "..", "a b", "ml@1f:2e"]
    paths = {ledger_path(name) for name in names}
    assert len(paths) == len(names)
    assert {path.parent for path in paths} == {state_dir() / "ledger"}
    with pytest.raises(FedrecError, match="population"):
        ledger_path("")


def test_a_file_that_is_no_ledger_stops_the_run() -> None:
    path = ledger_path("people")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(FedrecError, match="can't be written or read"):
        opened(user())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["commit", "crash", "reopen"]), max_size=8), st.integers(0, 10**9))
def test_whatever_happens_the_ledger_covers_the_releases(steps: list[str], seed: int) -> None:
    ledger, released, mechanism = opened(user(), f"run{seed}{len(steps)}{steps}"), 0, user()
    name, number = f"run{seed}{len(steps)}{steps}", 1
    for step in steps:
        if step == "reopen":
            ledger = opened(mechanism, name)
            continue
        try:
            ledger.reserve(number)
        except RefusedError:
            break
        released += 1
        if step == "crash":
            ledger = opened(mechanism, name)
        else:
            ledger.commit(number, SOME)
            number += 1
        event: Any = mechanism.event(PLAN, 1)
        spent = running_epsilon(frozenset({(event.noise_multiplier, 1.0, released)}), mechanism.delta_for(PLAN), 2.0)
        assert ledger.epsilon() >= spent
        assert ledger.epsilon() <= 2.0


def endless(path: Path, mechanism: Mechanism, plan: TrainingPlan) -> None:
    """Reserve, release, commit for ever, from where an earlier process was killed."""
    ledger = opened(mechanism, plan=plan)
    number = max((row["round"] for row in ledger.rows() if row["status"] == "committed"), default=0)
    with path.open("a") as releases:
        while True:
            number += 1
            ledger.reserve(number)
            releases.write(f"{number}\n")
            releases.flush()
            ledger.commit(number, SOME)


def written(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_killed_at_any_moment_no_release_is_missing(tmp_path: Path) -> None:
    plan, kills, path = replace(PLAN, rounds=100_000), 30, tmp_path / "releases"
    path.touch()
    mechanism = user(plan)
    epsilon_of_events([(GaussianDpEvent(3.0), 1)], 1e-5)
    chance = random.Random(0)
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                endless(path, mechanism, plan)
            finally:
                os._exit(1)
        before = len(written(path))
        while len(written(path)) < before + 2:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended by itself"
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    rows = opened(mechanism, plan=plan).rows()
    released = written(path)
    charged = [row["round"] for row in rows]
    assert len(released) > kills
    assert len(set(charged)) >= len(set(released))
    for number in set(released):
        assert charged.count(number) >= released.count(number)
    assert 0 <= len(charged) - len(released) <= kills
    committed = [row["round"] for row in rows if row["status"] == "committed"]
    assert len(committed) == len(set(committed))
    assert sqlite3.connect(ledger_path("people")).execute("PRAGMA integrity_check").fetchone() == ("ok",)
