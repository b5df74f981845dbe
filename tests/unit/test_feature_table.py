"""docs/features.md: every test that it names exists, and no feature is missing."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
import typer

from icce_ray.cli.main import app
from icce_ray.export.atlas import ATLAS
from icce_ray.export.findings import FINDINGS
from icce_ray.export.formats import FORMATS, PREDICTORS
from icce_ray.settings import Settings
from icce_ray.settings.models import Tracker
from icce_ray.settings.stages import Format, Method

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "features.md").read_text()
NAMED = re.findall(r"`(\S+\.py)::(\w+)`", TEXT)
PAGE = "".join(path.read_text() for path in (ROOT / "icce_ray" / "report" / "assets").glob("*.html"))


def rows(heading):
    """The first cells of a section's table."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return " ".join(line.split("|")[1] for line in section[1].splitlines() if line.startswith("| "))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_is_named_exists(file, name):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_names_a_test():
    lines = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.endswith("| shown by |")]
    assert len(lines) == len(NAMED) > 70


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Commands", [f"icce {name}" for name in typer.main.get_command(app).commands]),
        ("Settings", Settings.model_fields),
        ("Sources", get_args(Format)),
        ("Exports", (*FORMATS, ATLAS, *PREDICTORS, *FINDINGS)),
        ("Trackers", get_args(Tracker)),
        ("Report", re.findall(r'<section id="(\w+)"', PAGE) + re.findall(r'\("(\w+)", "\w+"\)', PAGE)),
    ],
)
def test_nothing_is_missing(heading, names):
    assert names
    assert [name for name in names if not re.search(rf"`{name}[`. ]", rows(heading))] == []


def test_every_method_of_the_consensus_is_named():
    assert all(method.upper() in TEXT for method in get_args(Method))
