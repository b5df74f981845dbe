"""What a plan takes the passes of a step over the logits to be, against what torch.compile makes of the step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icce_ray.core.heads import FUSED_PASSES, PLAIN_PASSES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow(30)
@pytest.mark.parametrize(
    ("options", "passes"),
    [(["--batch", "64"], FUSED_PASSES), (["--batch", "512", "--eager", "--precision", "float32"], PLAIN_PASSES)],
)
def test_a_step_makes_as_many_passes_over_the_logits_as_a_plan_counts(options, passes):
    """One more tensor of the logits' shape, read once, is 410 MB per step with ImageNet's clusters."""
    command = [sys.executable, "jobs/bench/passes.py", "--dim", "64", "--clusters", "1000", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    (step,) = (line for line in run.stdout.splitlines() if line.startswith("| a step"))
    assert float(step.split("|")[3]) == pytest.approx(passes, abs=0.5)
