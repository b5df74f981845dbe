"""How the index lies on devices of made-up memory: copies where the base fits one, parts where it does not."""

import pytest

from icce_ray.stages.cluster import Resources
from icce_ray.stages.neighbors.layout import Demand, Layout, layout_of
from icce_ray.store import RunError
from tests.failures import fails

GB = 1e9
IMAGENET = Demand(1_281_167, 2048, "torch", k_max=1282, rows=4096)
GPUS = Resources("cuda", gpus=8, nodes=1, cores=64)
NODES = Resources("cpu", gpus=0, nodes=4, cores=16)


def demand(images=IMAGENET.images, search="torch"):
    return Demand(images, 2048, search, k_max=1282, rows=4096)


@pytest.mark.parametrize(
    ("demanded", "memory", "asked", "expected"),
    [
        (demand(), 80 * GB, None, Layout(parts=1, copies=8, gpu_share=1.0)),  # 16 GB of base: no list is merged
        (demand(), 24 * GB, None, Layout(1, 8, 1.0)),
        (demand(), 16 * GB, None, Layout(2, 4, 1.0)),
        (demand(search="faiss"), 24 * GB, None, Layout(2, 4, 1.0)),  # FAISS keeps a copy of its own
        (demand(10**7), 80 * GB, None, Layout(2, 4, 1.0)),
        (demand(2 * 10**7), 80 * GB, None, Layout(4, 2, 1.0)),
        (demand(3 * 10**7), 80 * GB, None, Layout(6, 1, 1.0)),
        (demand(), 80 * GB, 8, Layout(8, 1, 1.0)),
        (demand(), 80 * GB, 3, Layout(3, 2, 1.0)),
        (demand(), 80 * GB, 12, Layout(12, 1, 0.5)),
        (demand(9000), 80 * GB, None, Layout(1, 3, 1.0)),  # three blocks of queries
    ],
)
def test_gpus_hold_copies_where_the_base_fits_and_parts_where_not(demanded, memory, asked, expected):
    assert layout_of(demanded, GPUS, memory, asked) == expected


@pytest.mark.parametrize(
    ("memory", "asked", "expected"),
    [(64 * GB, None, Layout(1, 4)), (12 * GB, None, Layout(2, 2)), (0.0, None, Layout(4, 1)), (0.0, 5, Layout(5, 1))],
)
def test_nodes_without_gpus_do_likewise_and_never_refuse(memory, asked, expected):
    assert layout_of(IMAGENET, NODES, memory, asked) == expected


@pytest.mark.parametrize(
    ("demanded", "memory", "asked", "said"),
    [
        (demand(10**8), 80 * GB, None, ["1228.8 GB", "8 GPUs of 80.0 GB", "use 18 GPUs", "heads.max_images"]),
        (demand(), 2 * GB, None, ["15.7 GB", "GPUs of 2.0 GB", "larger GPUs", "resources.device=cpu"]),
        (demand(10**7), 80 * GB, 1, ["neighbor_shards = 1", "122.9 GB", "2 or more"]),
    ],
)
def test_gpus_that_are_too_small_or_too_few_are_refused_before_anything_is_mined(demanded, memory, asked, said):
    with fails(RunError, *said):
        layout_of(demanded, GPUS, memory, asked)
