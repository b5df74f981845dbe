"""`--help` of every command: fits a screen, has no broken lines of its own, gives examples that are right."""

import inspect
import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from icce_ray.cli.main import app
from icce_ray.settings import load
from icce_ray.settings.sweep import Sweep

ROOT: typer.core.TyperGroup = typer.main.get_command(app)
COMMANDS = sorted(ROOT.commands)
#: The help of the root, and of every command.
ASKED = ["", *COMMANDS]
#: (columns, most lines): usual terminals, and what the longest lists of options need.
SCREEN, LARGEST = (80, 24), (100, 40)
#: Need the larger screen, because of the number of their options. Every other command fits the smaller one.
LONG = {"", "evaluate", "export", "name", "plan", "predict", "refine", "run", "sweep", "update"}


def help_of(command, columns=100):
    arguments = [command, "--help"] if command else ["--help"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns), "TERM": "dumb"})
    assert result.exit_code == 0
    return result.output


def texts():
    """The text of the root and of every command, as it was written."""
    return {"": ROOT.help} | {name: command.help for name, command in ROOT.commands.items()}


EXAMPLES = [
    (name, shlex.split(line)) for name, text in texts().items() for line in re.findall(r"Example: (.*)", str(text))
]


@pytest.mark.parametrize("command", ASKED)
def test_help_fits_a_screen(command):
    columns, most = LARGEST if command in LONG else SCREEN
    lines = help_of(command, columns).rstrip().splitlines()
    assert len(lines) <= most
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("command", ASKED)
def test_no_line_of_a_help_ends_early(command):
    """Paragraphs after the first keep their line breaks: one that a source line has would show on a wider screen."""
    first, *others = inspect.cleandoc(str(texts()[command])).split("\n\n")
    broken = [paragraph for paragraph in others if re.search(r"[\w,]\n(?!Example: )", paragraph)]
    short = [paragraph for paragraph in broken if max(map(len, paragraph.splitlines())) > SCREEN[0] - 2]
    assert first
    assert short == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_gives_an_example_of_itself(command):
    assert [words[:2] for name, words in EXAMPLES if name == command][:1] == [["icce", command]]
    assert f"Example: icce {command}" in help_of(command)


def test_the_root_lists_the_commands_in_a_line_each():
    text = help_of("", 80)
    assert [command for command in COMMANDS if f"│ {command} " not in text] == []
    assert "Example: icce run" in text


@pytest.mark.parametrize(("name", "words"), EXAMPLES, ids=[" ".join(words[:4]) for _, words in EXAMPLES])
def test_an_example_is_right(name, words):
    """Its options exist, its values are of their kinds, its settings are settings."""
    assert words[0] == "icce"
    command = ROOT.commands[words[1]]
    context = command.make_context(words[1], words[2:])
    given = context.params
    if given.get("params"):
        assert Sweep.of(given["params"], search=given["search"], samples=given["samples"]).params
    if words[1] in ("run", "plan"):
        values = {"source": "photos", "out": "run", "clusters": given["clusters"] or 2}
        assert load(values, overrides=given["overrides"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is(command):
    parameters = [one for one in ROOT.commands[command].params if one.name != "help"]
    assert [one.name for one in parameters if not one.help] == []
