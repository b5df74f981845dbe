"""`icce plan` as users and programs see it."""

import functools
import json
import runpy
from pathlib import Path

import pytest

from icce_ray.cli import main as cli
from icce_ray.cli import plan as module

ROOT = Path(__file__).parents[3]


@pytest.fixture
def icce_plan(icce):
    return functools.partial(icce, "plan")


def test_a_table_for_people_is_markdown(icce_plan):
    status, out, _ = icce_plan("--images", 10**9, "--gpus", 8, "--gpu-price", 2.5)
    assert status == 0
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        *("list", "embed", "- download alone", "- decode alone", "- forward alone", "- write alone", "- upload alone"),
        *("sample", "neighbors", "heads", "- load alone", "- number alone", "- download alone", "- train alone"),
        *("- label alone", "- checkpoints alone", "- upload of checkpoints alone"),
        *("consensus", "classifier", "predict", "inspect", "**total**"),
    ]
    assert set(rows[1]) <= set("|-: ")
    assert "cost" in rows[-1]
    assert "counted, not measured: assumed 30% of the 989 TFLOP/s" in out
    assert "measured 20" in out
    assert "see 2,000,000 images (heads.max_images)" in out


def test_plain_values_for_programs(icce_plan):
    status, out, _ = icce_plan("--images", 5000, "--model", "hog", "-k", 10, "--cpus", 4, "--heads", 7, "--json")
    plan = json.loads(out)
    assert status == 0
    assert (plan["images"], plan["sample"], plan["dim"], plan["machines"]["cpus"]) == (5000, 5000, 372, 4)
    assert plan["total"]["seconds"] == pytest.approx(
        plan["start_seconds"] + sum(stage["seconds"] for stage in plan["stages"])
    )
    assert plan["total"]["cost"] is None
    assert plan["rates"]["decode"]["measured"]["command"]


def test_settings_come_from_file_and_command_line(icce_plan, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("clusters: 12\nheads: {epochs: 100}\n")

    def heads(*arguments):
        out = icce_plan("--images", 10**6, "--cpus", 8, "--json", *arguments)[1]
        stages = {stage["stage"]: stage for stage in json.loads(out)["stages"]}
        return next(part["seconds"] for part in stages["heads"]["parts"] if part["name"] == "train")

    base = heads("--config", config)
    assert heads("--config", config, "--epochs", 200) == pytest.approx(2 * base)
    assert heads("--config", config, "--set", "heads.epochs=300") == pytest.approx(3 * base)
    assert heads("-k", 12, "--epochs", 100) == base
    assert heads("--config", config, "--heads", 25) == pytest.approx(base / 2)


def test_the_documentation_has_the_plans_of_today(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["plans.py"])
    monkeypatch.syspath_prepend(ROOT / "jobs" / "bench")
    runpy.run_path(str(ROOT / "jobs" / "bench" / "plans.py"), run_name="__main__")
    table = capsys.readouterr().out
    assert table.count("\n") > 20
    page = ROOT / "docs" / "web-scale.md"
    assert table in page.read_text(), "put what `python jobs/bench/plans.py` prints into docs/web-scale.md"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", 10**6, "--model", "facebook/dinov2-larg"], "did you mean facebook/dinov2-large?"),
        (["--images", 10**6, "--gpus", 1, "--gpu-type", "h300"], "known: h100, h200"),
        (["--images", 10**6, "--rates", "none.yaml"], "no such file"),
        (["--images", 10**6, "--set", "heads.epoch=3"], "did you mean heads.epochs?"),
        (["--images", 3], "3 images cannot fill 1000 clusters"),
    ],
)
def test_errors_are_one_message(icce_plan, arguments, words):
    status, out, err = icce_plan(*arguments)
    assert (status, out) == (cli.EXIT_USAGE, "")
    assert err.startswith("error: ")
    assert words in err


@pytest.mark.parametrize(
    ("written", "value", "shown"),
    [
        *((module.number, *pair) for pair in ((0, "0"), (1234567, "1,200,000"), (99.6, "100"), (0.0512, "0.051"))),
        *((module.duration, *pair) for pair in ((0, ""), (0.5, "0.50 s"), (59.9, "1.0 min"), (86000, "1.0 d"))),
        *((module.size, *pair) for pair in ((4.1e12, "4.1 TB"), (999, "1.0 kB"), (0, ""))),
    ],
)
def test_figures_have_two_digits_and_a_unit_that_fits(written, value, shown):
    assert written(value) == shown
