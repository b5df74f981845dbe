"""The counts of a plan against the code that does the work."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from icce_ray.backbones import PUBLISHED, TransformerShape
from icce_ray.core.heads import HeadChunk, HeadCost, head_shapes, heads_per_chunk, initialise
from icce_ray.core.linear import LinearGrid, grid_flops
from icce_ray.core.recipe import GridRecipe, Recipe

RECIPE = Recipe(heads=3, hidden=20, bottleneck=12)


@pytest.mark.parametrize(("ffn", "registers"), [("mlp", 0), ("swiglu", 0), ("mlp", 4)])
def test_a_transformer_has_the_operations_and_parameters_that_torch_counts(ffn, registers):
    kind, config = (Dinov2WithRegistersModel, Dinov2WithRegistersConfig) if registers else (Dinov2Model, Dinov2Config)
    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 518, "patch_size": 14}
    options = {"use_swiglu_ffn": ffn == "swiglu"} | ({"num_register_tokens": registers} if registers else {})
    with torch.device("meta"):
        model = kind(config(**sizes, **options, attn_implementation="eager")).eval()
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            model(pixel_values=torch.empty(1, 3, 56, 56))
    shape = TransformerShape(width=96, depth=3, ffn=ffn, registers=registers)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.flops(56) == counted.get_total_flops()


def test_the_published_models_have_their_published_sizes():
    millions = {name: round(shape.parameters / 1e6) for name, shape in PUBLISHED.items()}
    names = ("small", "base", "large", "giant")
    assert [millions[f"facebook/dinov2-{name}"] for name in names] == [22, 87, 304, 1136]


def test_a_head_has_the_parameters_and_products_that_torch_counts():
    rows, dim, clusters = 10, 48, 7
    cost = HeadCost(RECIPE, dim, clusters, batch=rows)
    shapes = head_shapes(dim, RECIPE.hidden, RECIPE.bottleneck, clusters)
    chunk = HeadChunk(initialise(range(3), shapes=shapes, seed=0))
    assert cost.parameters == sum(tensor.numel() for tensor in chunk.parameters.values()) // 3
    for tensor in chunk.parameters.values():
        tensor.requires_grad_(True)
    with FlopCounterMode(display=False) as forward:
        logits = chunk.logits(torch.randn(2 * rows, dim))
    assert forward.get_total_flops() == 2 * 3 * 2 * rows * cost.products
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    # The teacher sees as many rows as the student, forward only.
    assert cost.step_flops() == 2 * forward.get_total_flops() + backward.get_total_flops()


@pytest.mark.parametrize(
    ("device", "precision", "logit"),
    [("cuda", "auto", 15 * 2), ("cuda", "float32", 15 * 4), ("cpu", "auto", 60 * 4), ("cpu", "bfloat16", 60 * 4)],
)
def test_bytes_of_a_step_are_those_of_the_passes_over_its_logits_and_of_the_update(device, precision, logit):
    cost = HeadCost(RECIPE, 48, 7, batch=10)
    assert cost.step_bytes(device, precision) == 3 * (logit * 20 * 7 + 44 * cost.parameters)


def test_an_iteration_of_the_grid_has_the_operations_that_torch_counts():
    features = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    inputs = {"cls": [(0, 4)], "cls+patch_mean": [(0, 10)]}
    rates = (1e-3, 1e-2, 1e-1)
    grid = LinearGrid(
        features,
        torch.arange(64) % 5,
        inputs=inputs,
        n_classes=5,
        recipe=GridRecipe(learning_rates=rates, batch_size=16, iterations=1),
    )
    with FlopCounterMode(display=False) as counted:
        grid.fit()
    assert grid_flops(batch=16, widths=[4, 10], rates=3, n_classes=5) == counted.get_total_flops()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("clusters", [10, 5000])
def test_memory_is_that_of_the_heads_and_of_the_chunk_that_the_trainer_takes(device, clusters):
    recipe = Recipe()
    cost = HeadCost(recipe, 64, clusters, batch=1024)
    chunk = heads_per_chunk(torch.device(device), n_heads=50, rows=2048, widest=max(recipe.hidden, clusters))
    widths = 2 * recipe.hidden + 2 * recipe.bottleneck + 6 * clusters
    held = 5 * 50 * cost.parameters + 2048 * 50 * clusters
    assert cost.memory(50, device) == 4.0 * (held + 2048 * chunk * widths)
