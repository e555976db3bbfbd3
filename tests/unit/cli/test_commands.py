"""The command line itself: its helps and their examples, one spelling, what it says of mistakes and of ends."""

import contextlib
import errno
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import typer
import yaml

from fedrec import simulation
from fedrec.cli import grammar, options
from fedrec.cli.data import named, rows
from fedrec.cli.main import app, main
from fedrec.errors import FedrecError
from fedrec.experiment.overrides import Conf
from fedrec.experiment.own_file import guess_columns
from fedrec.experiment.settings import load
from fedrec.flower import ray
from fedrec.simulation import Simulation
from tests.support.tiny import FREE, SMALL


def walk(command: click.Command, words: str = "fedrec") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with the words that call it."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{words} {name}")


COMMANDS = dict(walk(typer.main.get_command(app)))


def status_of(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("words", COMMANDS)
def test_every_help_has_two_examples_and_takes_overrides_by_their_groups(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(*shlex.split(words)[1:], "--help") == 0
    told = capsys.readouterr().out
    examples = grammar.examples_of(COMMANDS[words])
    for one in COMMANDS[words].params:
        help_of = str(getattr(one, "help", None) or "")
        assert help_of and help_of.split()[0] in told, f"{one.name} has no help"
    assert len(examples) == 2 and all(f"   {line}\n" in told for line in examples)
    if any(parameter.name == "overrides" for parameter in COMMANDS[words].params):
        assert all(f"{group}=" in told for group in Conf.of().groups) and "interaction (default)" in told
        assert "rounds=8 " in told and "name=null" in told


@pytest.mark.parametrize("line", [line for command in COMMANDS.values() for line in grammar.examples_of(command)])
def test_every_example_is_a_command_with_settings_that_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    context = COMMANDS["fedrec"].make_context("fedrec", list(words), resilient_parsing=True)
    command: Any = COMMANDS["fedrec"]
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)
        words = context.protected_args + context.args if hasattr(command, "commands") else words
    given = context.params.get("overrides") or ()
    Conf.of().check([text for text in given if "=" in text])


def test_alone_it_shows_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of() == 0
    told = capsys.readouterr().out
    assert all(words.split()[1] in told for words in COMMANDS if words.count(" ") == 1)
    assert told.endswith(" Try first\n   fedrec simulate\n   fedrec recommend --likes 'Toy Story, Heat'\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("simulat", "fedrec simulat: no such command. Did you mean 'simulate'?"),
        ("data chek", "fedrec data chek: no such command. Did you mean 'check'?"),
        ("study comprae a b", "neither a yaml file nor one that comes with fedrec. Did you mean 'compare'?"),
        ("simulate --jsn", "fedrec simulate --jsn: no such option. Did you mean '--json'?"),
        ("simulate -m privacy.epsilon=1,2", "fedrec simulate -m: a sweep is a study: fedrec study PLAN"),
        ("simulate --multirun seed=1,2", "a sweep is a study"),
        ("study frontier --cfg job", "fedrec config [key=value]... prints the resolved settings"),
        ("data check ml100k", "dataset=ml100k does not exist. Did you mean 'ml-100k'?"),
        ("ray --nodes 0", "--nodes"),
        ("recommend --user 1 --likes Heat", "takes one of --user ID and --likes TITLES"),
        ("simulate --resume nowhere rounds=2", "--resume nowhere goes on with the run's own settings"),
        ("simulate --resume nowhere", "nowhere/config.yaml does not exist: --resume takes the folder of a run"),
        ("study --resume x --seeds 0", "goes on with the study as it was begun"),
        ("study frontier --seeds a", "--seeds a: whole numbers with commas expected"),
        ("study frontier 1 8", "lists are written with commas"),
        ("privacy ledger a b", "unexpected extra argument"),
        ("audit runs/x seed=1", "takes the run's own settings"),
    ],
)
def test_mistakes_name_what_is_right(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*shlex.split(line)) == 2
    told = capsys.readouterr()
    assert said in told.err and told.err.startswith("fedrec: ") and told.err.count("\n") == 1 and not told.out


@pytest.mark.parametrize("line", ["study privacy-accuracy privcy=user", "simulate privcy=user", "ray privcy=user"])
def test_a_typo_is_answered_before_anything_heavy_is_imported(line: str) -> None:
    code = (
        "import sys; from fedrec.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'numpy', 'torch', 'hydra', 'flwr', 'pyarrow', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *shlex.split(line)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "[]\n"), "numpy alone takes as long as all the rest"
    assert done.stderr == "fedrec: privcy does not exist. Did you mean 'privacy'?\n"


@pytest.mark.parametrize("command", ["simulate", "ray"])
def test_settings_that_are_not_used_are_named_before_a_run_begins(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Simulation, "simulate", lambda self: sys.exit(3))
    monkeypatch.setattr(ray, "simulation_superlink", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(ray, "flower", lambda *_: 3)
    assert status_of(command, *FREE, "model=ease", "rounds=50", f"output={tmp_path}") == 3
    assert "rounds=50 is not used: algorithm gram plays 2 rounds, always\n" in capsys.readouterr().err


def test_config_prints_the_settings_and_where_each_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["model=sasrec", "privacy=user", "privacy.epsilon=2", "evaluation.baselines=[ease]"]
    main(["config", *overrides])
    told = capsys.readouterr().out
    assert yaml.safe_load(told) == load(overrides).document
    lines = {line.split("#")[0].strip(): line.split("# ")[-1] for line in told.splitlines() if "#" in line}
    assert lines["epsilon: 2"] == "override privacy.epsilon=2" and lines["rounds: 1200"] == "model/sasrec.yaml"
    assert lines["decay_over: 1200"] == "algorithm/sequences.yaml: ${rounds}"
    main(["config", *overrides, "--json"])
    both = json.loads(capsys.readouterr().out)
    assert both["settings"] == load(overrides).document
    assert both["origins"]["evaluation.baselines"] == "override evaluation.baselines=[ease]"
    assert all(both["origins"].values())


def test_a_data_set_has_one_spelling_and_a_short_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "purchases.csv"
    lines = [f"u{u},item {(u * 7 + n * n) % 30},{n}" for u in range(25) for n in range(8)]
    path.write_text("user,item,time\n" + "\n".join(lines) + "\n")
    main(["data", "check", str(path)])
    short = capsys.readouterr().out
    main(["data", "check", "dataset=csv", f"dataset.path={path}"])
    assert short == capsys.readouterr().out and "25 users" in short
    assert named("ml-100k") == ["dataset=ml-100k"] and named("dataset=csv") == ["dataset=csv"]
    assert named("a b.inter") == ["dataset=recbole", "dataset.path=a b.inter"]
    assert named("x.tsv") == ["dataset=csv", "dataset.path=x.tsv", "dataset.separator=tab"]


def test_columns_are_told_by_their_names_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "purchases.csv"
    body = "".join(f"c{u},{u + n},{n},{n}\n" for u in range(9) for n in range(4))
    path.write_text(f"customer_id,SKU,Order Date,price\n{body}")
    main(["data", "check", str(path)])
    assert "user = customer_id (by its name), item = SKU (by its name), time = Order Date" in (capsys.readouterr().err)
    given = ["dataset=csv", f"dataset.path={path}", "dataset.columns.time=price"]
    assert guess_columns(given) == ["dataset.columns.user=customer_id", "dataset.columns.item=SKU"]
    path.write_text("customer_id,member_id,item,price\n1,2,3,4\n")
    with pytest.raises(FedrecError, match=r"the user \(customer_id or member_id\?\).*dataset.columns.user=customer_id"):
        guess_columns(given)
    assert guess_columns(["dataset=csv"]) == []
    assert guess_columns(["dataset=csv", "dataset.path=x", "dataset.layout=lists"]) == ["dataset.columns.time=null"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--seeds 0 1 2 rounds=3", "--seeds 0,1,2 rounds=3"),
        ("rounds=3 --epsilons 1 0.5 --json", "rounds=3 --epsilons 1,0.5 --json"),
        ("--mechanisms user banded --seeds 0,1 2", "--mechanisms user,banded --seeds 0,1,2"),
        ("--values 1 2 plan.yaml", "--values 1,2 plan.yaml"),
        ("--seeds --json 3", "--seeds --json 3"),
        ("a b --name 1 2", "a b --name 1 2"),
    ],
)
def test_lists_may_be_written_with_spaces(given: str, expected: str) -> None:
    assert grammar.joined_lists(given.split()) == expected.split()


def test_parts_of_ones_own_go_with_the_overrides(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# @package _global_\nmodel:\n  _target_: mine.Model\n  depth: 3\n")
    line = ["model=mine", "--config-dir", str(tmp_path), "--allow", "mine", "--allow", "more", "model.depth=4"]
    context = COMMANDS["fedrec simulate"].make_context("simulate", line)
    own = [f"config_dir={tmp_path}", "allow=mine", "allow=more"]
    assert context.params["overrides"] == [*own, "model=mine", "model.depth=4"]
    assert options.check_overrides(context.params["overrides"]) == context.params["overrides"]
    with pytest.raises(FedrecError, match="--config-dir nowhere: no such folder"):
        options.check_overrides(["config_dir=nowhere"])


def test_a_narrow_terminal_gets_data_sets_in_lines_that_fit() -> None:
    found = [("a", "1 user", "leave-last-out", "x" * 60), ("long-name", "2 users", "none", "y")]
    wide = rows(found, terminal=False)
    assert wide[1].startswith("long-name  2 users  none") and len(wide) == 2
    assert rows([("a" * 40, "b" * 60, "c", "d")], terminal=True)[0].splitlines()[1] == "    c"


@pytest.mark.parametrize(
    ("begins", "expected"),
    [("mod", "model="), ("privacy.eps", "privacy.epsilon="), ("model=ea", "model=ease"), ("rou", "rounds=")],
)
def test_overrides_are_completed(begins: str, expected: str) -> None:
    assert expected in options.complete_override(begins)
    assert all(one.startswith(begins) for one in options.complete_override(begins))


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ([], "rou", ["rounds="]),
        (["seed=1"], "rou", ["rounds="]),
        (["seed", "=", "1"], "rou", ["rounds="]),
        (["seed=1", "cohort", "="], "sm", ["small"]),
        (["seed", "=", "1", "cohort"], "", ["poisson", "small"]),
    ],
)
def test_bash_completes_though_it_cuts_words_at_the_sign(
    words: list[str], incomplete: str, expected: list[str]
) -> None:
    context = SimpleNamespace(params={"overrides": words})
    assert options.complete_typed(context, incomplete) == expected  # type: ignore[arg-type]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what a run says that the given exception stops."""

    def run(error: BaseException) -> tuple[int, str]:
        def simulate(self: Any) -> None:
            raise error

        monkeypatch.setattr(simulation.Simulation, "simulate", simulate)
        status = status_of("simulate", *SMALL, f"output={tmp_path}", "name=one")
        return status, capsys.readouterr().err

    return run


def test_an_interrupted_run_names_the_command_that_goes_on(stopped: Any, tmp_path: Path) -> None:
    status, told = stopped(KeyboardInterrupt())
    first, *_, last = told.strip().splitlines()
    assert status == 130
    assert first.startswith(f"Run folder: {tmp_path / 'one'} ")
    assert last == f"fedrec: interrupted; what is done is kept: fedrec simulate --resume {tmp_path / 'one'} goes on"


def test_a_full_disk_names_the_place_and_what_to_do(stopped: Any, tmp_path: Path) -> None:
    status, told = stopped(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "one" / "x")))
    assert status == 2 and f"fedrec: {tmp_path / 'one' / 'x'}: no space left on device (" in told
    assert told.endswith(f"so far): free space, then fedrec simulate --resume {tmp_path / 'one'}\n")


def test_a_folder_that_can_not_be_written_to_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(FedrecError, match=f"{tmp_path} can't be written to: say where runs may lie with output=FOLDER"):
        options.check_output([f"output={tmp_path}/none/yet"])
    options.check_output([f"output={tmp_path.parent}"])
    (tmp_path / "file").write_text("")
    with pytest.raises(FedrecError, match="file is no folder"):
        options.check_output([f"output={tmp_path}/file"])


def test_a_reader_that_goes_and_a_plain_locale_are_no_faults() -> None:
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "fedrec", "simulate", "-h"]
    told = subprocess.run(command, env=plain, capture_output=True, check=False)
    assert (told.returncode, told.stderr) == (0, b"") and b"privacy=" in told.stdout and b"\x1b" not in told.stdout
    shell = f"{shlex.quote(sys.executable)} -m fedrec config | true; echo ${{PIPESTATUS[0]}}"
    cut = subprocess.run(["bash", "-c", shell], env=plain, capture_output=True, text=True, check=False)
    assert (cut.stdout, cut.stderr) == ("141\n", "")
