"""SECURITY.md names tests that are there; CITATION.cff and the workflow are what their readers can read."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_every_promise_names_a_test_that_is_there():
    rows = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`(tests/\S+\.py)`", row) for row in rows]
    assert len(named) > 5
    assert all(named)
    assert [path for paths in named for path in paths if not (ROOT / path).is_file()] == []


def test_the_workflow_calls_what_ci_is():
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["steps"]
    assert any(step.get("run", "").endswith(".ci/run") for step in steps)


def test_the_citation_has_what_the_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert "2511.16213" in citation["message"]
