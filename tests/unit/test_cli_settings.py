"""`icce settings`: every setting with its default and meaning, as `--set` takes it."""

import pytest
from typer.testing import CliRunner

from icce_ray.cli.main import app
from icce_ray.settings import SettingsError, load
from icce_ray.settings.loading import FIELDS, described
from tests.failures import fails

BASE = {"source": "photos", "out": "run", "clusters": 2}


def test_all_settings_are_there_and_say_what_they_are():
    found = described()
    assert [one.name for one in found] == list(FIELDS)
    assert [one.name for one in found if not one.meaning] == []
    assert [one.name for one in found if not one.default] == ["source", "clusters", "out"]


def test_the_defaults_are_those_of_a_run_and_can_be_set():
    shown = [f"{one.name}={one.default}" for one in described() if one.default]
    assert load(BASE, overrides=shown) == load(BASE)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("heads.epochs", ("400", "Paper: 400")),
        ("heads.teacher", ("sinkhorn", "One of sinkhorn, softmax.")),
        ("consensus.methods", ("[cspa, hgpa, mcla, hbgf]", "One of cspa")),
        ("neighbors.k_max", ("null", "by default ceil(N / K)")),
    ],
)
def test_one_setting(name, says):
    result = CliRunner().invoke(app, ["settings", name])
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert [part for part in says if part not in text] == []
    assert len(result.output.splitlines()) <= 4


def test_those_of_a_stage():
    text = CliRunner().invoke(app, ["settings", "heads"]).output
    names = {line.split()[0] for line in text.splitlines() if "." in line.split()[0]}
    assert names == {name for name in FIELDS if name.startswith("heads.")}


def test_an_unknown_one_suggests_the_nearest():
    for name, meant in [("head", "heads"), ("heads.epoch", "heads.epochs"), ("treshold", "neighbors.threshold")]:
        with fails(SettingsError, f"{name}: unknown setting", f"{meant}?"):
            described(name)
