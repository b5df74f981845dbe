"""The checks for a GPU see what they are there for, and the command says how it ended."""

import dataclasses
import json
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

from icce_ray.core import recipe
from icce_ray.core.neighbors import select
from icce_ray.core.training import HeadTrainer
from jobs.bench import gpu_day
from tests.failures import fails

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Function.*should not be instantiated:DeprecationWarning"),  # dynamo's
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning"),  # torch's own fuser's
]
ROOT = Path(__file__).parents[3]
DAY = gpu_day.Day("cpu", True, {})
CARDS = {"h100": {"memory_gb": 80}, "a100-80gb": {"memory_gb": 80}, "a100-40gb": {"memory_gb": 40}}
training, searching, day = gpu_day.training, gpu_day.searching, sys.modules["gpu.day"]


@pytest.fixture
def one_variant(monkeypatch):
    monkeypatch.setattr(training, "VARIANTS", {"icce": {}})


def test_every_value_of_every_switch_is_tried():
    hints, paper = typing.get_type_hints(recipe.Recipe), recipe.Recipe()
    switches = {name: typing.get_args(kind) for name, kind in hints.items() if typing.get_args(kind)}
    assert switches
    for name, values in switches.items():
        seen = {getattr(paper, name), *(one.get(name) for one in training.VARIANTS.values())} - {None}
        assert seen == set(values), name


@pytest.mark.parametrize("wrong", [{"precision": "bfloat16"}, {"compiled": True, "precision": "float32"}])
def test_losses_that_are_not_the_cpus_are_seen(monkeypatch, one_variant, wrong):
    right = training.trainer_on

    def made(*arguments, **execution):
        trainer = right(*arguments, **execution)
        if wrong.items() <= execution.items():
            trainer.recipe = dataclasses.replace(trainer.recipe, beta=0.5)
        return trainer

    monkeypatch.setattr(training, "trainer_on", made)
    with fails(day.Failed, f"icce, {wrong['precision']}", "from those of the CPU"):
        training.numerics(DAY)


def test_a_wait_for_the_device_is_seen(monkeypatch, one_variant):
    draw = HeadTrainer.draw
    monkeypatch.setattr(HeadTrainer, "draw", lambda *given: draw(*given) + 0 * int(given[1].max().item()))
    with fails(day.Failed, "makes the host wait"):
        training.no_waiting(DAY)


def test_what_a_restart_loses_is_seen(monkeypatch):
    state = HeadTrainer.state

    def without_moments(trainer):
        return {name: 0 * one if "exp_avg" in name else one for name, one in state(trainer).items()}

    monkeypatch.setattr(HeadTrainer, "state", without_moments)
    with fails(day.Failed, "after a restore", "losses"):
        training.restored(DAY)


def test_a_tie_that_goes_to_another_image_is_seen(monkeypatch):
    def other_ties(parts, limits):
        """Of images that are as near, the last."""
        turned = [searching.Neighbors(one.offsets, 1500 - one.ids, one.similarities) for one in parts]
        lists = select(turned, limits)
        return searching.Neighbors(lists.offsets, 1500 - lists.ids, lists.similarities)

    monkeypatch.setattr(searching, "merge", other_ties)
    with fails(day.Failed, "hub 0 keeps"):
        searching.mined(DAY)


def test_a_score_of_another_device_is_seen():
    lists = searching.Neighbors(torch.tensor([0, 2]), torch.tensor([1, 2]), torch.tensor([0.9, 0.6]))
    other = searching.Neighbors(lists.offsets, lists.ids, lists.similarities + 1e-3)
    fewer = searching.Neighbors(torch.tensor([0, 1]), lists.ids[:1], lists.similarities[:1])
    limits = searching.Limits(0.5, 1, 5)
    assert searching.compare(lists, lists, limits, 3, 1e-4) == (0, 0.0)
    with fails(day.Failed, "scores of the same pair are 1.0e-03 apart"):
        searching.compare(lists, other, limits, 3, 1e-4)
    with fails(day.Failed, "row 0 and 2 are neighbours on one device only"):
        searching.compare(lists, fewer, limits, 3, 1e-4)


def called(monkeypatch, tmp_path, *words):
    """(exit status, JSON or None) of the command."""
    out = tmp_path / "day.json"
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", "--out", str(out), *words])
    with pytest.raises(SystemExit) as end:
        gpu_day.main()
    return end.value.code, json.loads(out.read_text()) if out.exists() else None


def test_without_a_gpu_it_is_skipped_and_says_why(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert called(monkeypatch, tmp_path) == (77, None)
    assert "sees no GPU; --dry-run" in capsys.readouterr().out


def test_a_fault_hides_no_other_and_is_the_exit_status(monkeypatch, tmp_path):
    def broken(_):
        raise ZeroDivisionError("of a check")

    def good(_):
        return {"figure": 1, "rates": {"label": 2.0}}

    checks = (gpu_day.Check("bad", broken), gpu_day.Check("good", good), gpu_day.Check("no", good, ("no_such",)))
    monkeypatch.setattr(gpu_day, "CHECKS", checks)
    status, found = called(monkeypatch, tmp_path, "--dry-run")
    assert (status, [one["status"] for one in found["checks"]]) == (1, ["failed", "passed", "skipped"])
    assert "ZeroDivisionError: of a check" in found["checks"][0]["reason"]
    assert found["checks"][2]["reason"] == "no_such not installed"
    assert (found["checks"][1]["figures"], found["rates"]) == ({"figure": 1}, {"label": 2.0})


def test_the_core_is_checked_where_torch_is_and_ray_is_not(tmp_path):
    absent = ["ray", "pydantic", "fsspec", "pyarrow", "transformers", "typer"]
    program = (
        f"import sys, runpy\nsys.modules |= dict.fromkeys({absent!r})\n"
        f"sys.argv = ['gpu_day.py', '--dry-run', '--only', 'no_waiting', 'mine', 'run', 'embed', "
        f"'--out', {str(tmp_path / 'day.json')!r}]\nrunpy.run_path('jobs/bench/gpu_day.py', run_name='__main__')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    checks = json.loads((tmp_path / "day.json").read_text())["checks"]
    assert {one["name"] for one in checks if one["status"] == "passed"} == {"no_waiting", "mine"}
    assert {one["name"]: one["reason"] for one in checks if one["status"] == "skipped"} == {
        "run": "ray, pydantic, fsspec not installed",
        "embed": "ray, pydantic, fsspec, transformers not installed",
    }


@pytest.mark.parametrize(
    ("name", "gigabytes", "card"),
    [
        ("NVIDIA H100 80GB HBM3", 85, "h100"),
        ("NVIDIA A100-SXM4-40GB", 42, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 85, "a100-80gb"),
        ("Tesla V100", 32, None),
    ],
)
def test_a_card_is_known_by_its_name_and_memory(name, gigabytes, card):
    assert gpu_day.card_of(name, 1e9 * gigabytes, CARDS) == card
