"""The documentation as a site: built without a warning, it needs no network, and its reference is the program's."""

import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from icce_ray.cli.main import app
from icce_ray.settings.loading import described
from icce_ray.store.artifacts import DECLARED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages. MkDocs' warnings, such as of a link to nowhere, are errors."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
        config.plugins.run_event("startup", command="build", dirty=False)
        build(config)
    return folder


def test_every_page_is_in_the_menu_and_asks_no_other_server(site):
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    menu = set(re.findall(r": ([\w/-]+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert len(menu) > 30
    assert {f"{name}.html" for name in menu} <= pages.keys()
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= menu
    asked = [re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?(https?:[^">\s]+)', text) for text in pages.values()]
    assert [one for found in asked for one in found] == []


def test_the_reference_is_that_of_the_program(site):
    texts = {name: (site / f"reference/{name}.html").read_text() for name in ("settings", "commands", "artifacts")}
    assert [one.name for one in described() if f"<code>{one.name}</code>" not in texts["settings"]] == []
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [name for name in names if f">icce {name}<" not in texts["commands"]] == []
    assert [one.path for one in DECLARED if one.path not in texts["artifacts"]] == []
    assert (site / "api/icce_ray.html").is_file()
