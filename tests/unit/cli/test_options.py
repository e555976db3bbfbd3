"""What commands share: overruled settings told everywhere alike, and arguments as one value."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from fedrec.audit import attacks, auditor
from fedrec.cli import results
from fedrec.cli.grammar import Command
from fedrec.cli.main import main
from fedrec.cli.options import numbers, taking, tell_overruled, whole_numbers, words
from fedrec.errors import FedrecError
from fedrec.study import frontier, mechanisms
from tests.support.tiny import SMALL

OVERRULED = [*SMALL, "model=popularity", "privacy=user", "privacy.clip=2"]
SAID = "privacy.clip=2 is not used: algorithm counts trains nothing, and its statistic brings its own bound"


class Begun(Exception):  # noqa: N818 - it is no error
    """The work of a command has begun."""


def begin(*arguments: Any, **more: Any) -> Iterator[Any]:
    raise Begun


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in (
        (frontier, "measure_frontier"),
        (frontier, "study"),
        (mechanisms, "compare_mechanisms"),
        (auditor, "audit"),
        (attacks, "attacks"),
    ):
        monkeypatch.setattr(place, name, begin)


@pytest.mark.parametrize(
    ("command", "before"),
    [
        (["study", "frontier"], ""),
        (["study", "seeds"], ""),
        (["study", "mechanisms", "--mechanisms", "user"], "user: "),
        (["audit"], ""),
        (["audit", "--attacks"], ""),
    ],
    ids=" ".join,
)
def test_every_command_that_trains_names_what_has_no_effect_before_it_begins(
    command: list[str], before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Begun):
        main([*command, *OVERRULED])
    assert f"{before}{SAID}" in capsys.readouterr().err.splitlines()


def test_what_each_mechanism_of_a_comparison_overrules_is_told_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Begun):
        main(["study", "mechanisms", *SMALL, "model=mf", "algorithm.epochs=3", "--mechanisms", "user,gateway"])
    told = [line for line in capsys.readouterr().err.splitlines() if "is not used" in line]
    assert told == ["gateway: algorithm.epochs=3 is not used: with this privacy, privacy.local_steps decides"]


def test_an_audit_of_a_run_names_nothing_of_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "tell_overruled", begin)
    with pytest.raises(SystemExit):
        main(["audit", str(tmp_path)])
    assert f"{tmp_path / 'config.yaml'} does not exist" in capsys.readouterr().err


def test_settings_that_all_have_an_effect_are_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    tell_overruled([*SMALL, "model=mf", "privacy=user", "privacy.clip=2"])
    assert capsys.readouterr().err == ""


@dataclass(frozen=True)
class Order:
    """What is ordered."""

    what: Annotated[str, typer.Argument(help="a dish")]
    many: Annotated[int, typer.Option(min=1, help="how many")] = 1
    warm: Annotated[bool, typer.Option("--warm", help="from the oven")] = False


def test_a_command_takes_its_arguments_as_one_value(capsys: pytest.CaptureFixture[str]) -> None:
    app, taken = typer.Typer(), list[Order]()

    @app.command("order", cls=Command)
    @taking(Order)
    def order(asked: Order) -> None:
        """Order a dish."""
        taken.append(asked)

    command = typer.main.get_command(app)
    command.main(["soup", "--many", "3", "--warm"], standalone_mode=False)
    command.main(["bread"], standalone_mode=False)
    assert taken == [Order("soup", 3, True), Order("bread")]
    with pytest.raises(FedrecError, match="--many"):
        command.main(["soup", "--many", "0"], standalone_mode=False)
    with pytest.raises(FedrecError, match="'--warm'"):
        command.main(["soup", "--warn"], standalone_mode=False)
    command.main(["--help"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("Order a dish.", "a dish", "how many", "from the oven"))


@pytest.mark.parametrize(("text", "found"), [(None, None), ("1,0.5", [1.0, 0.5]), (" 2 , ,3e-1", [2.0, 0.3])])
def test_lists_are_read_with_spaces_and_gaps(text: str | None, found: list[float] | None) -> None:
    assert numbers("--values", text) == found
    assert words("a, b,,c ") == ["a", "b", "c"]


@pytest.mark.parametrize(("read", "text"), [(numbers, "1,x"), (whole_numbers, "1,2.5")])
def test_what_is_no_list_of_numbers_is_named_with_its_option(read: Any, text: str) -> None:
    with pytest.raises(FedrecError, match=rf"--seeds {text}: (whole )?numbers with commas expected, such as"):
        read("--seeds", text)
