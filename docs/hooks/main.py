"""The hook of mkdocs: adds the pages that are made from `conf/`, the source and the command line."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(ROOT))

import commands_page  # noqa: E402
import errors_page  # noqa: E402
import settings_page  # noqa: E402


def generated_pages() -> dict[str, str]:
    """Return every generated page under its path in `docs/`."""
    conf, before = ROOT / "conf", (HERE / "errors.md").read_text()
    pages = {"reference/settings/index.md": settings_page.render_run(conf)}
    for group in settings_page.GROUPS:
        pages[f"reference/settings/{group}.md"] = settings_page.render_group(conf, group)
    pages["reference/errors.md"] = errors_page.render(ROOT / "fedrec", before)
    pages["reference/commands.md"] = _commands()
    return pages


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to those that lie in `docs/`."""
    for path, content in generated_pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def _commands() -> str:
    from fedrec.cli import main

    if not hasattr(main, "app"):
        return commands_page.BEFORE
    return commands_page.render(main.app)
