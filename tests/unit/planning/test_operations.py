"""The counts of a plan against the code that does the work."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from icce_ray.adapters import faiss_lists
from icce_ray.backbones import dinov2, hog
from icce_ray.core import neighbors, search
from icce_ray.core.consensus import cspa, hbgf, hgpa, overlaps
from icce_ray.core.heads import HeadChunk, head_shapes, heads_per_chunk, initialise
from icce_ray.core.linear import LinearGrid
from icce_ray.planning import every_image, job, learning, operations
from icce_ray.planning.operations import Transformer
from icce_ray.planning.rates import load_rates
from icce_ray.stages import ensemble, sample
from icce_ray.stages.labelling import classifier_inputs
from icce_ray.stages.neighbors import index

SIZES = {"dim": 48, "hidden": 20, "bottleneck": 12, "clusters": 7}


@pytest.mark.parametrize(("ffn", "registers"), [("mlp", 0), ("swiglu", 0), ("mlp", 4)])
def test_a_transformer_has_the_operations_and_parameters_that_torch_counts(ffn, registers):
    kind, config = (Dinov2WithRegistersModel, Dinov2WithRegistersConfig) if registers else (Dinov2Model, Dinov2Config)
    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 518, "patch_size": 14}
    options = {"use_swiglu_ffn": ffn == "swiglu"} | ({"num_register_tokens": registers} if registers else {})
    with torch.device("meta"):
        model = kind(config(**sizes, **options, attn_implementation="eager")).eval()
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            model(pixel_values=torch.empty(1, 3, 56, 56))
    shape = Transformer(96, 3, ffn, 14, registers)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.flops(56) == counted.get_total_flops()


def test_the_published_models_have_their_known_sizes():
    models = load_rates().models
    millions = {name: round(model.transformer().parameters / 1e6) for name, model in models.items()}
    names = ("small", "base", "large", "giant")
    assert [millions[f"facebook/dinov2-{name}"] for name in names] == [22, 87, 304, 1136]
    assert set(models) == set(dinov2.KNOWN)


def test_a_head_has_the_parameters_and_products_that_torch_counts():
    chunk = HeadChunk(initialise(range(3), shapes=head_shapes(*SIZES.values()), seed=0))
    one = sum(tensor.numel() for tensor in chunk.parameters.values()) // 3
    assert operations.head_parameters(**SIZES) == one
    for tensor in chunk.parameters.values():
        tensor.requires_grad_(True)
    rows, products = 10, operations.head_products(**SIZES)
    with FlopCounterMode(display=False) as forward:
        logits = chunk.logits(torch.randn(rows, SIZES["dim"]))
    assert forward.get_total_flops() == 2 * 3 * rows * products
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    step = operations.head_step_flops(
        products=products, dim=SIZES["dim"], hidden=SIZES["hidden"], heads=3, rows=0, student_rows=rows
    )
    assert step == forward.get_total_flops() + backward.get_total_flops()


def test_an_iteration_of_the_grid_has_the_operations_that_torch_counts():
    features = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    inputs = {"cls": [(0, 4)], "cls+patch_mean": [(0, 10)]}
    rates = (1e-3, 1e-2, 1e-1)
    grid = LinearGrid(
        features, torch.arange(64) % 5, inputs=inputs, n_classes=5, learning_rates=rates, batch_size=16, iterations=1
    )
    with FlopCounterMode(display=False) as counted:
        grid.fit()
    assert operations.linear_flops(batch=16, widths=[4, 10], rates=3, clusters=5) == counted.get_total_flops()


@pytest.mark.parametrize("layout", [[8], [8, 8], [324, 48]])
@pytest.mark.parametrize("block_dim", [0, 32])
def test_inputs_of_the_grid_are_those_of_the_stage(layout, block_dim):
    ends = [sum(layout[: index + 1]) for index in range(len(layout))]
    named = {str(index): [end - width, end] for index, (end, width) in enumerate(zip(ends, layout, strict=True))}
    inputs = classifier_inputs(named, sum(layout), block_dim)
    widths = [sum(stop - start for start, stop in parts) for parts in inputs.values()]
    assert operations.classifier_widths(layout, block_dim) == widths


def test_constants_are_those_of_the_code():
    limits = (cspa.MAX_ROWS, hgpa.MAX_PINS, hbgf.MAX_EDGES, overlaps.MAX_EDGES)
    mine = ("MAX_CSPA_ROWS", "MAX_HGPA_PINS", "MAX_HBGF_EDGES", "MAX_MCLA_PAIRS")
    assert tuple(getattr(operations, name) for name in mine) == limits
    assert list(operations.BLOCK_ELEMENTS.values()) == [search.BLOCK_ELEMENTS[kind] for kind in ("cpu", "cuda")]
    assert every_image.SAMPLE_ROWS == sample.ROWS_PER_SHARD
    assert every_image.CPU_SLICE == dinov2._SLICE
    assert learning.PARTITION_ROWS == index.PARTITION_ROWS
    assert (learning.HEADS_PER_ARRAY, learning.IMAGES_PER_SHARD) == (
        ensemble.HEADS_PER_ARRAY,
        ensemble.IMAGES_PER_SHARD,
    )
    for kind, parts in job.HOG_PARTS.items():
        spans = hog.describe(kind, n_last_blocks=1, image_size=None).layout.values()
        assert parts == [stop - start for start, stop in spans]
    assert (job.HOG_SIZE, job.TRANSFORMER_SIZE) == (hog.DEFAULT_SIZE, dinov2.DEFAULT_SIZE)


@pytest.mark.parametrize("n", [10, 1000, 12_345_678])
def test_defaults_are_those_of_the_code(n):
    assert operations.default_k_max(n, 7, 50) == neighbors.default_k_max(n, 7, 50)
    assert operations.default_lists(n) == faiss_lists.default_lists(n)
    assert operations.default_probes(n) == faiss_lists.default_probes(n)


@pytest.mark.parametrize(("device", "name"), [("cpu", "cpu"), ("cuda", "gpu")])
@pytest.mark.parametrize("clusters", [10, 5000])
def test_heads_of_a_product_are_as_many_as_the_trainer_takes(device, name, clusters):
    """The memory beyond parameters and targets is that of one chunk."""
    sizes = {"heads": 50, "rows": 2048, "hidden": 512, "bottleneck": 256, "clusters": clusters}
    chunk = heads_per_chunk(torch.device(device), n_heads=50, rows=2048, widest=max(512, clusters))
    whole = operations.head_memory(parameters=0, device=name, **sizes)
    activations = whole - 4.0 * 2048 * 50 * clusters
    assert activations / (4.0 * 2048 * (2 * 512 + 2 * 256 + 6 * clusters)) == pytest.approx(chunk)


def test_few_files_are_read_for_a_small_sample():
    assert operations.share_of_files_read(10**9, 2 * 10**6, 1024) == pytest.approx(0.87, abs=0.01)
    assert operations.share_of_files_read(10**9, 1000, 1) == pytest.approx(1e-6, rel=0.01)
