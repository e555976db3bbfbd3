"""A population is known by its people, not by a file's name, order or columns; doubts are asked about."""

import json
import random
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fedrec.cli.main import main
from fedrec.data.dataset import Dataset
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.settings import load
from fedrec.paths import ledger_path, populations
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.ledger.people import KEPT, People, find_population, key_path, sketch, tell_apart
from fedrec.privacy.mechanisms.none import NoPrivacy

Row = tuple[str, str, int, int]


def drawing() -> np.random.Generator:
    return np.random.default_rng(random.getrandbits(64))  # tests/support/chance.py seeds it


def rows_of(users: Sequence[str], items: int = 60, each: int = 12) -> list[Row]:
    chance = drawing()
    return [
        (user, f"item-{item}", n, int(chance.integers(1, 6)))
        for user in users
        for n, item in enumerate(chance.choice(items, each, replace=False))
    ]


def data(path: Path, rows: list[Row], *more: str) -> Dataset:
    path.write_text("user,item,time,stars\n" + "".join(f"{u},{i},{t},{v}\n" for u, i, t, v in rows))
    return load(["dataset=csv", f"dataset.path={path}", *more]).experiment.dataset.load()


def charged(dataset: Dataset, named: str | None = None) -> str:
    """Charge a run to the population of a data set, as a run does; return its name."""
    settings = load(["model=popularity", "privacy=none"])
    experiment = settings.experiment
    plan = experiment.plan(dataset)
    run = f"run-{random.getrandbits(64):x}"
    ledger = Ledger.open(find_population(dataset, named), run, NoPrivacy(), plan, plan.population)
    ledger.remember(sketch(dataset))
    ledger.close()
    return ledger.population


NAMED = [f"{name}@example.org" for name in ("ann", "ben", "cleo", "dan", "eve", "fay", "gus", "hal", "ida", "jo")]
NUMBERED = [str(n) for n in range(1, 41)]


@pytest.mark.parametrize("users", [NAMED, NUMBERED], ids=["named", "numbered"])
def test_the_same_people_are_known_again(users: list[str], tmp_path: Path) -> None:
    rows = rows_of(users)
    first = charged(data(tmp_path / "ours.csv", rows))
    shuffled = [rows[n] for n in drawing().permutation(len(rows))]
    assert find_population(data(tmp_path / "renamed.csv", rows), None) == first
    assert find_population(data(tmp_path / "shuffled.csv", shuffled), None) == first
    assert find_population(data(tmp_path / "ours.csv", rows, "dataset.columns.value=stars"), None) == first
    assert find_population(data(tmp_path / "ours.csv", [*rows, (users[0], "item-0", 99, 5)]), None) == first
    assert find_population(data(tmp_path / "more.csv", [*rows, (users[3], "brand new", 99, 5)]), None) == first
    assert populations() == [first]


@pytest.mark.parametrize("users", [NAMED, NUMBERED], ids=["named", "numbered"])
def test_a_near_match_is_asked_about_and_the_answer_kept(users: list[str], tmp_path: Path) -> None:
    rows = rows_of(users)
    first = charged(data(tmp_path / "ours.csv", rows))
    more = data(tmp_path / "theirs.csv", [*rows, ("newcomer", "item-0", 1, 5), ("newcomer", "item-1", 2, 5)])
    with pytest.raises(
        RefusedError, match=r"theirs: about \d+ % of it are in the data of the population ours-"
    ) as told:
        charged(more)
    assert f"same people, set dataset.population={first}:" in str(told.value)
    assert f"others, set dataset.population={more.population}" in str(told.value)
    assert populations() == [first]
    half = data(tmp_path / "half.csv", [row for row in rows if row[0] in users[: len(users) // 2]])
    with pytest.raises(RefusedError, match=f"same people, set dataset.population={first}"):
        find_population(half, None)
    assert charged(more, first) == first == find_population(more, None), "asked once"
    other = charged(half, "half-of-us")
    assert find_population(half, None) == other and populations() == sorted([first, other])


def test_others_are_not_asked_about(tmp_path: Path) -> None:
    """Two files that number their users from 1 hold other people, unless they chose the same."""
    first = charged(data(tmp_path / "ours.csv", rows_of(NUMBERED, items=2000)))
    second = data(tmp_path / "theirs.csv", rows_of(NUMBERED, items=2000))
    assert find_population(second, None) == second.population != first
    strangers = data(tmp_path / "strangers.csv", rows_of([f"{name}.other" for name in NAMED]))
    assert find_population(strangers, None) == strangers.population


def test_people_with_names_are_known_by_them_alone(tmp_path: Path) -> None:
    """What the same people did next month is theirs, though no row is in both files."""
    first = charged(data(tmp_path / "january.csv", rows_of(NAMED)))
    later = [(user, f"later {item}", time, value) for user, item, time, value in rows_of(NAMED)]
    assert find_population(data(tmp_path / "february.csv", later), None) == first


def test_two_populations_of_the_same_people_are_asked_about(tmp_path: Path) -> None:
    rows = rows_of(NAMED)
    charged(data(tmp_path / "ours.csv", rows), "one")
    charged(data(tmp_path / "ours.csv", rows), "two")
    with pytest.raises(RefusedError, match="its users are those of 2 populations: one, two"):
        find_population(data(tmp_path / "third.csv", rows), None)


def test_nothing_is_asked_about_people_whose_data_devices_keep(tmp_path: Path) -> None:
    ours = data(tmp_path / "ours.csv", rows_of(NAMED))
    run = random.getrandbits(64)
    plan = load(["model=popularity", "privacy=none"]).experiment.plan(ours)
    ledger = Ledger.open(f"{ours.name}-{'0' * 12}", f"run-{run:x}", NoPrivacy(), plan, plan.population)
    ledger.remember(None)
    ledger.close()
    assert find_population(ours, None) == ours.population


def test_older_ledgers_and_a_lost_key_are_asked_about(tmp_path: Path) -> None:
    rows = rows_of(NAMED)
    ours = data(tmp_path / "ours.csv", rows)
    plan = load(["model=popularity", "privacy=none"]).experiment.plan(ours)
    Ledger.open(ours.population, "run", NoPrivacy(), plan, plan.population).close()  # without a sketch
    assert find_population(ours, None) == ours.population
    changed = data(tmp_path / "ours.csv", rows[1:])
    with pytest.raises(RefusedError, match=f"the ledger {ours.population} has its name and is of an older fedrec"):
        find_population(changed, None)
    charged(ours)
    assert find_population(changed, None) == ours.population
    key_path().unlink()
    with pytest.raises(RefusedError, match=r"people\.key is not the key that its people were hashed with"):
        find_population(changed, None)
    key_path().write_bytes(b"short")
    with pytest.raises(FedrecError, match=r"people\.key is damaged"):
        find_population(changed, None)


def test_a_sketch_holds_no_name_and_is_the_owners(tmp_path: Path) -> None:
    ours = data(tmp_path / "ours.csv", rows_of(NAMED))
    kept = sketch(ours)
    assert kept is not None and People.from_bytes(kept.to_bytes()).to_bytes() == kept.to_bytes()
    charged(ours)
    content = ledger_path(ours.population).read_bytes()
    assert not any(name.encode() in content for name in NAMED)
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600
    key_path().unlink()
    other = sketch(ours)
    assert other is not None and other.digest != kept.digest and not set(other.users) & set(kept.users)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_overlap_of_sketches_is_near_that_of_the_sets(share: float) -> None:
    chance = drawing()
    every = np.unique(chance.integers(0, 2**63, 40000, np.uint64))
    both = int(4000 * share)
    strangers = chance.integers(0, 2**63, 4000 - both, np.uint64)
    few = np.sort(np.concatenate([chance.choice(every, both, replace=False), strangers]))

    def made(hashes: np.ndarray) -> People:
        return People("k", "d", True, 1, len(hashes), hashes[:1], hashes[:KEPT])

    assert made(few).overlap(made(every)) == pytest.approx(share, abs=0.45 * share + 0.05)


def test_running_numbers_tell_nobody_apart() -> None:
    assert not tell_apart([str(n) for n in range(1, 944)])
    assert not tell_apart([f"user-{n}" for n in range(100)])
    assert tell_apart(NAMED) and tell_apart([str(10**9 + 7919 * n) for n in range(100)])


def test_a_run_on_a_renamed_file_is_charged_to_the_same_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(NUMBERED)
    more = ["model=popularity", "privacy=user", "evaluation.baselines=[]", f"output={tmp_path}", "dataset=csv"]
    for name in ("first", "second"):
        data(tmp_path / f"{name}.csv", rows)
        main(["simulate", *more, f"dataset.path={tmp_path / name}.csv", f"name={name}"])
    assert "epsilon 8.00 so far" in capsys.readouterr().err
    told = [json.loads((tmp_path / name / "metrics.json").read_text())["dataset"] for name in ("first", "second")]
    assert told[0]["population"] == told[1]["population"] == populations()[0] and len(populations()) == 1
    data(tmp_path / "third.csv", rows[: len(rows) // 2])
    with pytest.raises(SystemExit):
        main(["simulate", *more, f"dataset.path={tmp_path / 'third'}.csv", "name=third"])
    assert "dataset.population=" in capsys.readouterr().err and len(populations()) == 1
    card = ["simulate", *more, f"dataset.path={tmp_path / 'third'}.csv", "dataset.population=half", "name=fourth"]
    main(card)
    choices = json.loads((tmp_path / "fourth" / "privacy_card.json").read_text())["fields"]["choices"]
    assert "that these are the people of half: named by hand" in choices
