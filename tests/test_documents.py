"""What README, docs/ and notebooks show is true: blocks run, commands parse, settings, modules and files exist.

A block of `sh` or `python` runs, page by page and in order, unless its title says "Not run" and why; runs are cut to
one round without baselines. Commands under docs/results take hours and stand beside the JSON of what they gave; blocks
under docs/development are excerpts. Whether or not it runs, every `fedrec` command has to parse, and every setting to
exist.
"""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer

import fedrec.api.runs
from fedrec import simulation
from fedrec.cli.main import app, main
from fedrec.errors import FedrecError
from fedrec.experiment.settings import Settings, load
from fedrec.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
sys.path.insert(0, str(ROOT / "docs" / "hooks"))
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<language>\w*)(?P<info>.*)$")
INLINE = re.compile(r"(?<!`)`(fedrec [^`]+)`(?!`)")
NOT_RUN = "Not run"
NEVER_RUN = (ROOT / "docs" / "results", ROOT / "docs" / "development")
PLACE = r"(?<![\w./-])((?:fedrec|conf|tests|simulations|deploy|server|client|docs)/[\w./-]*\w\.\w+)(?![\w/])"
COMPOSE = ("simulate", "study", "audit", "config", "ray", "privacy project", "server start", "data check", "data split")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, what follows the language, and its text."""

    page: Path
    line: int
    language: str
    info: str
    text: str

    @property
    def runs(self) -> bool:
        return NOT_RUN not in self.info and not any(folder in self.page.parents for folder in NEVER_RUN)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    found, lines = list[Block](), iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        if (start := FENCE.match(line)) is None:
            continue
        body = list[str]()
        for _, inner in lines:
            if inner.strip() == start["ticks"]:
                break
            body.append(inner.removeprefix(start["indent"]))
        found.append(Block(page, number, start["language"], start["info"], "\n".join(body)))
    return found


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the words of every command of a shell text: continued lines joined, loops and lists taken apart."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|>")
        lexer.whitespace_split = True
        words = list[str]()
        for word in [*lexer, ";"]:
            if not set(word) <= set(";&|>"):
                words.append(word)
                continue
            while words and (words[0] in ("do", "then", "runuser") or re.fullmatch(r"[A-Z_]+=.*", words[0])):
                words = words[words.index("--") + 1 :] if words[0] == "runuser" else words[1:]
            if words:
                yield words
            words = []


def cells_of(notebook: Path) -> list[Block]:
    """Return the text of a notebook's cells, where its commands may be named."""
    cells = json.loads(notebook.read_text())["cells"]
    return [Block(notebook, n, cell["cell_type"], "", "".join(cell["source"])) for n, cell in enumerate(cells, 1)]


ALL = [block for page in PAGES for block in blocks_of(page)]
TEXTS = [(page, page.read_text()) for page in PAGES] + [
    (book, cell.text) for book in sorted((ROOT / "notebooks").glob("*.ipynb")) for cell in cells_of(book)
]
SHELL = [block for block in ALL if block.language == "sh"]
COMMANDS = [(str(block), words) for block in SHELL for words in commands_of(block.text)]
FEDREC = [(where, words[1:]) for where, words in COMMANDS if words[0] == "fedrec"]
SAID = [
    (str(page.relative_to(ROOT)), shlex.split(text)[1:])
    for page, whole in TEXTS
    for text in INLINE.findall(whole)
    if "…" not in text and "..." not in text
]


def overrides_of(words: list[str]) -> list[str] | None:
    """Return the settings of a command that composes them, None for one that does not."""
    named = [name for name in COMPOSE if words[: len(name.split())] == name.split()]
    if not named or {"--config-dir", "--allow"} & set(words):
        return None
    rest = words[len(named[0].split()) :]
    given = [word for word in rest if re.match(r"^[+~]?[a-z][\w.]*=", word) and not re.match(r"^[a-z]+=[A-Z]+$", word)]
    return ["dataset=csv", *given] if rest and rest[0].endswith(".csv") else given


def check_parses(words: list[str], where: str, whole: bool) -> None:
    """Raise unless the words name a command of the application and, if `whole`, are arguments that it takes."""
    command, name, rest = typer.main.get_command(app), "fedrec", list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        fallback = getattr(command, "fallback", None)
        if rest[0] not in command.commands and fallback and len(rest[0]) > 1:
            rest = [fallback, *rest]
        assert rest[0] in command.commands, f"{where}: fedrec has no command {' '.join(words)}"
        command, name, rest = command.commands[rest[0]], f"{name} {rest[0]}", rest[1:]
    if not whole or isinstance(command, click.Group):
        return
    try:
        command.make_context(name, rest)
    except (FedrecError, click.UsageError) as error:
        raise AssertionError(f"{where}: fedrec {shlex.join(words)}: {error}") from error
    except click.exceptions.Exit:
        pass


@pytest.mark.parametrize(("where", "words"), FEDREC)
def test_a_command_in_a_block_parses(where: str, words: list[str]) -> None:
    check_parses(words, where, whole=True)


@pytest.mark.parametrize(("where", "words"), SAID)
def test_a_command_in_a_sentence_exists(where: str, words: list[str]) -> None:
    check_parses(words, where, whole=False)


def test_every_setting_that_a_command_is_given_exists() -> None:
    given = {(*found,): where for where, words in FEDREC + SAID if (found := overrides_of(words))}
    for overrides, where in given.items():
        try:
            load(overrides)
        except ValueError as error:
            raise AssertionError(f"{where}: {' '.join(overrides)}: {error}") from error


def test_every_module_that_is_run_exists_and_takes_the_options() -> None:
    found = [(where, words[2], words[3:]) for where, words in COMMANDS if words[:2] == ["python", "-m"]]
    assert found
    for where, module, rest in found:
        spec = importlib.util.find_spec(module)
        assert spec is not None, f"{where}: no module {module}"
        files = [Path(spec.origin or "")]
        files = sorted(files[0].parent.glob("*.py")) if files[0].name == "__init__.py" else files
        source = "".join(file.read_text() for file in files)
        for option in (word for word in rest if word.startswith("--")):
            assert f'"{option}"' in source, f"{where}: {module} has no {option}"


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for where, words in COMMANDS:
        if words[0] == "make":
            assert words[1] in targets, f"{where}: make {words[1]} does not exist"
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)`", page.read_text()):
            assert target in targets, f"{page}: make {target} does not exist"


def test_every_file_of_the_repository_that_a_page_names_exists() -> None:
    for page in PAGES:
        for name in re.findall(PLACE, re.sub(r"\]\([^)]*\)", "", page.read_text())):
            places = (ROOT / name, page.parent / name)
            assert "my_" in name or "NAME" in name or any(place.exists() for place in places), (
                f"{page.relative_to(ROOT)}: no file {name}"
            )


def test_a_block_that_does_not_run_says_why() -> None:
    for block in ALL:
        if block.language in ("sh", "python") and NOT_RUN in block.info:
            assert re.search(r'title="Not run in (the|these) tests: \w', block.info), f"{block}: Not run, but why?"
        assert block.language, f"{block}: a block without a language; output is text"


def test_python_blocks_compile() -> None:
    for block in ALL:
        if block.language == "python":
            compile(block.text, str(block), "exec")


def test_the_readme_is_short_and_has_a_picture() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    pictures = [found[1] for line in lines if (found := re.match(r"!\[.+\]\((.+)\)", line))]
    assert len(lines) <= 150 and pictures and all((ROOT / picture).stat().st_size > 1000 for picture in pictures)


def test_every_setting_is_described_in_conf() -> None:
    import settings_page

    assert not settings_page.undescribed(ROOT / "conf")


def test_generated_pages_hold_every_choice_and_every_message() -> None:
    import errors_page
    import settings_page

    for group in settings_page.GROUPS:
        text = settings_page.render_group(ROOT / "conf", group)
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"## `{group}={path.stem}`" in text
    messages = errors_page.error_texts(ROOT / "fedrec")
    assert len(messages) > 300 and any("did you mean" not in m.text.lower() for m in messages)
    assert "FedrecError" in errors_page.error_classes(ROOT / "fedrec")


def test_every_environment_variable_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "environment_variables.md").read_text()
    sources = [*ROOT.glob("fedrec/**/*.py"), *ROOT.glob("deploy/*"), ROOT / "tests" / "conftest.py"]
    read = {name for path in sources for name in re.findall(r"\bFEDREC_[A-Z]+\b", path.read_text())}
    assert read == set(re.findall(r"\bFEDREC_[A-Z]+\b", page))


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `runs/` with one small run in it, for pages that go on from one."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_STATE", str(folder / "state"))
        patch.chdir(folder)
        cut_runs(patch)
        main(["simulate", "privacy=none", "name=first"])
    return folder / "runs"


def cut_runs(patch: pytest.MonkeyPatch) -> None:
    """Let every run of this process be one round, two where a statistic needs them, without baselines."""
    made = simulation.new_run

    def small(settings: Settings, *more: Any) -> tuple[Settings, RunFolder]:
        document = dict(settings.document)
        document["rounds"] = min(document["rounds"], 2 if document["model"]["_target_"].endswith("Ease") else 1)
        document["evaluation"] = {**document["evaluation"], "baselines": []}
        for part in ("model", "algorithm"):
            if document[part].get("head"):
                document[part] = {**document[part], "head": 100}
        return made(Settings(document), *more)

    for module in (simulation, fedrec.api.runs):
        patch.setattr(module, "new_run", small)


RUN = sorted({block.page for block in ALL if block.runs and block.language in ("python", "sh")})


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(
    page: Path, first_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(first_run, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    cut_runs(monkeypatch)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.language == "python" and block.runs:
            exec(compile(block.text, str(block), "exec"), names)  # our own documents
        elif block.language == "sh" and block.runs:
            for words in commands_of(block.text):
                run_command(words, str(block), capsys)


def run_command(words: list[str], where: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one command of a block in this process."""
    assert words[0] == "fedrec", f'{where}: {words[0]} can\'t be run here; title="Not run in the tests: ..."'
    if "name=first" in words:
        words = [*words, "overwrite=true"]
    try:
        main(words[1:])
    except SystemExit as ended:
        raise AssertionError(f"{where}: {shlex.join(words)}: {ended.code}: {capsys.readouterr().err}") from ended


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="fedrec[docs] is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = {(page.name, url) for page in tmp_path.rglob("*.html") for url in loads(page.read_text())}
    assert not loaded, "a page of the site asks somebody else for something"
    drawn = [page.name for page in tmp_path.rglob("*.html") if 'class="mermaid"' in page.read_text()]
    assert not drawn, "the theme would load mermaid from elsewhere"
    assert not [path for path in tmp_path.rglob("*.css") if re.search(r"url\(\s*['\"]?(https?:)?//", path.read_text())]


def loads(html: str) -> list[str]:
    """Return the addresses on other hosts that a browser asks by itself when it shows a page."""
    tags = re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*>", html)
    wanted = [tag for tag in tags if not re.search(r'rel="?(canonical|alternate|edit|next|prev)', tag)]
    return [url for tag in wanted for url in re.findall(r"(?:src|href|srcset)=[\"']?((?:https?:)?//[^\"' >]+)", tag)]


def test_what_a_page_loads_from_elsewhere_is_noticed() -> None:
    assert loads('<script src="https://unpkg.com/a.js"></script><link rel=stylesheet href=//b.c/d.css>') == [
        "https://unpkg.com/a.js",
        "//b.c/d.css",
    ]
    assert not loads('<a href="https://flower.ai">Flower</a><img src="images/frontier.svg">')
