"""Every command with names that are markup, control sequences or not text: one line, and a known status."""

import os

import pytest

from icce_ray.cli import main as cli
from icce_ray.terminal import visible
from tests.unit.test_help import COMMANDS

NAMES = [
    "[/x]",
    "[bold]a:x:",
    "a\x1b[31mred\x9b1m",
    "two\nlines",
    os.fsdecode(b"caf\xe9"),
    "=1+1",
    "--help=",
    " ",
    "9" * 5000,
]
#: The arguments of each command, with NAME in place of a name that a user chose.
ARGUMENTS = {
    "run": [
        ["NAME", "-k", "2", "--backbone", "hog", "--out", "NAME"],
        ["photos", "-k", "2", "--backbone", "NAME", "--out", "NAME"],
        ["photos", "-k", "NAME", "--out", "run"],
        ["photos", "-k", "2", "--out", "run", "--config", "NAME"],
        ["photos", "-k", "2", "--out", "run", "--set", "NAME"],
        ["photos", "-k", "2", "--out", "run", "--set", "heads.epochs=NAME"],
        ["photos", "-k", "2", "--out", "run", "--until", "NAME"],
        ["photos", "-k", "2", "--out", "run", "--seed", "NAME"],
    ],
    "predict": [["NAME", "NAME", "--out", "NAME"]],
    "update": [["NAME", "NAME"]],
    "evaluate": [["NAME", "--labels", "NAME"]],
    "sweep": [
        ["NAME", "--param", "NAME"],
        ["NAME", "--param", "seed=NAME"],
        ["NAME", "--param", "seed=1", "--search", "NAME"],
    ],
    "status": [["NAME"]],
    "verify": [["NAME"]],
    "refine": [["NAME", "--decisions", "NAME"]],
    "report": [["NAME", "--names", "NAME"]],
    "name": [["NAME", "--vocabulary", "NAME", "--model", "NAME"]],
    "export": [["NAME", "--out", "NAME"], ["NAME", "--out", "NAME", "--format", "NAME"]],
    "settings": [["NAME"]],
    "plan": [["--images", "NAME"], ["--images", "9", "--rates", "NAME"], ["--images", "99999", "--model", "NAME"]],
    "doctor": [["--out", "http://NAME"], ["--cluster", "--out", "http://NAME"]],
    "demo": [["--seed", "NAME"]],
}
KNOWN = {cli.EXIT_ERROR, cli.EXIT_USAGE}


def test_every_command_is_tried():
    assert sorted(ARGUMENTS) == COMMANDS


@pytest.mark.parametrize(
    ("command", "arguments"), [(name, one) for name, several in ARGUMENTS.items() for one in several]
)
@pytest.mark.usefixtures("offline")
def test_a_name_gets_one_message_and_no_trace(monkeypatch, icce, tmp_path, command, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"listed, never read")
    for name in NAMES:
        status, out, message = icce(command, *(part.replace("NAME", name) for part in arguments))
        assert status in KNOWN, (name, out, message)
        assert message.replace("\n", "").isprintable(), name


@pytest.mark.parametrize("name", NAMES[:5])
def test_a_path_is_shown_as_it_is(monkeypatch, icce, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    _, _, message = icce("status", name)
    assert visible(name) in message or "UTF-8" in message or "\n" in name
