"""Words: standard English and the field's terms, in what users read. Spelling is codespell's (`make lint`)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What this project has written in their place, and the English for it.
MISUSED = {
    r"\b(images|frames|files|rows|epochs|steps) a second\b": "per second",
    r"\bms an image\b": "ms per image",
    r"\bone a line\b": "one per line",
    r"\bgrave fault": "serious fault",
    r"\bwhat nobody gives\b": "what is not given",
    r"\btells these\b": "logs these",
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_word_of_our_own(page):
    lines = enumerate(page.read_text().splitlines(), 1)
    found = [
        f"{page.name}:{number}: {match[0]!r}: write {right!r}"
        for number, line in lines
        for wrong, right in MISUSED.items()
        for match in re.finditer(wrong, line)
    ]
    assert found == []
