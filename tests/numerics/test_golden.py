"""Golden losses: a change that is meant to keep the method keeps these numbers.

They are the TEMI and CE losses of every head at each of 20 steps, on data made by numpy (its generators give the same
numbers on every machine). After a change that is meant to move them, write them anew and say why in the commit:

    python tests/numerics/test_golden.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from icce_ray.core.neighbors import Limits
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer

GOLDEN = Path(__file__).with_name("golden_losses.json")
SMALL = {"heads": 3, "hidden": 24, "bottleneck": 16, "epochs": 4, "batch_size": 32, "warmup_epochs": 1}
SMALL |= {"learning_rate": 0.02, "teacher_momentum": 0.9}
#: name: (switches of the recipe, limits of the neighbours)
PRESETS = {
    "icce": ({"smoothing_neighbors": 2}, Limits(0.3, 5, 40)),
    "temi": (
        {"teacher": "softmax", "input_norm": "standardize", "ce_weight": 0.0},
        Limits(1.0, 10, 10),
    ),
}


def losses(preset):
    """Losses [step][temi, cross entropy][head] of 20 steps: 4 epochs of 5."""
    switches, limits = PRESETS[preset]
    rng = np.random.default_rng(2024)
    centres = rng.standard_normal((4, 16))
    rows = centres[np.arange(160) % 4] + 0.6 * rng.standard_normal((160, 16))
    features = torch.from_numpy(rows.round(3)).float()
    recipe = Recipe(**SMALL, **switches)
    trainer = HeadTrainer(
        features, mine(features, limits), n_clusters=4, recipe=recipe, seed=11, execution=Execution(chunk=2)
    )
    steps, step = [], trainer.step

    def recorded(*batch):
        found = step(*batch)
        steps.append([loss.tolist() for loss in found])
        return found

    trainer.step = recorded
    for _ in range(recipe.epochs):
        trainer.run_epoch()
    return steps


@pytest.mark.parametrize("preset", PRESETS)
def test_losses_of_twenty_steps(preset):
    found, golden = losses(preset), json.loads(GOLDEN.read_text())[preset]
    assert len(golden) == 20
    np.testing.assert_allclose(found, golden, rtol=1e-5, atol=1e-6)


def test_the_golden_runs_learn():
    """Numbers that hardly move would hold whatever breaks."""
    for golden in json.loads(GOLDEN.read_text()).values():
        assert np.mean(golden[-1][0]) < np.mean(golden[0][0]) - 0.1


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({preset: losses(preset) for preset in PRESETS}, indent=1) + "\n")
