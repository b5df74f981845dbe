"""How the index lies on devices of made-up memory: copies where the base fits one, parts where it does not."""

import sys

import numpy as np
import pytest

from icce_ray import pipeline
from icce_ray.settings import load
from icce_ray.stages.cluster import Resources
from icce_ray.stages.neighbors import layout
from icce_ray.stages.neighbors.layout import Demand, Layout, check_search, layout_of
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


# -- FAISS, which comes with an extra ----------------------------------------------------------------------------------


def by_faiss(folder, **fields):
    np.save(folder / "features.npy", np.eye(20, dtype=np.float32))
    return load(
        {
            "source": str(folder / "features.npy"),
            "out": str(folder / "run"),
            "clusters": 4,
            "neighbors": {"search": "faiss"} | fields,
        }
    )


def test_a_search_by_faiss_without_faiss_ends_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with fails(RunError, "neighbors.search = faiss", "pip install 'icce-ray[faiss]'", "neighbors.search=torch"):
        pipeline.run(by_faiss(tmp_path), verbose=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("search", ["faiss", "ivf"])
def test_workers_without_faiss_are_known_before_a_stage_begins(tmp_path, monkeypatch, search):
    monkeypatch.setattr(layout, "_fault_of_workers", lambda *, gpu: f"no FAISS, gpu={gpu}")
    with fails(RunError, "no FAISS, gpu=True"):
        check_search(by_faiss(tmp_path, search=search), 10**6, GPUS)
    check_search(by_faiss(tmp_path, search="torch"), 10**6, GPUS)


def test_more_neighbours_than_faiss_gives_on_a_gpu_are_refused_before_a_stage_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "_fault_of_workers", lambda *, gpu: "")
    for fields, images in ({"k_max": 2040}, 10**6), ({}, 4 * 2040):
        with fails(RunError, "k_max = 2,040", "2,039", "neighbors.search=torch"):
            check_search(by_faiss(tmp_path, **fields), images, GPUS)
        check_search(by_faiss(tmp_path, **fields), images, NODES)
    check_search(by_faiss(tmp_path), 4 * 2039, GPUS)
    check_search(by_faiss(tmp_path, k_max=5000), 2048, GPUS)
