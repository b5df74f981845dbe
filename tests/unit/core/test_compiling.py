"""torch.compile on a machine that cannot compile: heads train all the same, and say once why they train slowly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icce_ray.core.compiling import compile_fault

#: Two trainers, one of which asks for torch.compile: the losses of an epoch of each.
TRAINS = """
import torch
from icce_ray.core.neighbors import Limits
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer

torch.set_num_threads(1)
features = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
recipe = Recipe(heads=2, hidden=8, bottleneck=4, epochs=2, warmup_epochs=0, batch_size=30)
for compiled in (True, True, False):
    execution = Execution(compiled=compiled)
    trainer = HeadTrainer(features, mine(features, Limits(0.5, 3, 20)), n_clusters=3, recipe=recipe, seed=0,
                          execution=execution)
    print(trainer.run_epoch().temi.tolist())
"""


def test_without_a_compiler_heads_train_uncompiled_and_say_so_once():
    environment = os.environ | {"CXX": "no-such-compiler", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", TRAINS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.splitlines())) == 1
    assert done.stderr.count("CompileWarning") == 1, done.stderr
    assert "no-such-compiler" in done.stderr
    assert "apt-get install g++ python3-dev" in done.stderr


@pytest.mark.slow(15)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, of what its compiler imports
def test_with_a_compiler_nothing_is_wrong():
    assert compile_fault("cpu") == ""
