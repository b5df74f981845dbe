"""What stages ask Ray for on clusters of several shapes: from what the nodes say, without Ray."""

import os

import pytest

from icce_ray.core.gpus import Gpu, Gpus
from icce_ray.settings import ResourceSettings
from icce_ray.stages import cluster
from icce_ray.stages.cluster import Resources, completed, grouped, of_nodes, resources, room_for
from icce_ray.stages.embed import Pool, pool_of
from icce_ray.store import RunError
from tests.failures import fails

HEAD = {"node:__internal_head__": 1.0}
SMALL, LARGE, GPU = {"CPU": 2.0}, {"CPU": 32.0}, {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "device", "expected"),
    [
        ([HEAD | SMALL, LARGE, LARGE, LARGE], "auto", Resources("cpu", gpus=0, nodes=4, cores=32)),
        ([HEAD | {"CPU": 0.0}, LARGE, LARGE], "auto", Resources("cpu", gpus=0, nodes=2, cores=32)),
        ([HEAD | SMALL, LARGE, LARGE, GPU], "auto", Resources("cuda", gpus=4, nodes=4, cores=16)),
        ([HEAD | SMALL, LARGE, LARGE, GPU], "cpu", Resources("cpu", gpus=4, nodes=4, cores=16)),
        ([HEAD | SMALL, GPU, GPU], "cuda", Resources("cuda", gpus=8, nodes=3, cores=16)),
        ([HEAD], "auto", Resources("cpu", gpus=0, nodes=1, cores=1)),
    ],
)
def test_resources_are_those_of_the_nodes_not_of_the_driver(nodes, device, expected):
    assert of_nodes(nodes, device) == expected


def test_a_laptop_has_the_cpus_it_has_whatever_ray_was_told():
    assert of_nodes([HEAD | {"CPU": 1000.0}], "auto").cores == os.cpu_count()


@pytest.mark.parametrize(
    ("found", "cpus", "asked", "chunks", "others", "expected"),
    [
        (Resources("cpu", 0, nodes=1, cores=2), 4, None, 9, False, Pool(2, 2, 1.0, sharers=2)),  # a laptop
        (Resources("cpu", 0, nodes=1, cores=2), 4, None, 1, False, Pool(1, 1, 1.0, sharers=1)),
        (Resources("cpu", 0, nodes=4, cores=32), 128, None, 999, True, Pool(16, 999, 4.0, sharers=4)),
        (Resources("cpu", 0, nodes=4, cores=32), 128, 8, 999, True, Pool(8, 8, 8.0, sharers=2)),
        (Resources("cpu", 0, nodes=3, cores=2), 5, 3, 20, True, Pool(3, 3, pytest.approx(5 / 6), sharers=1)),
        (Resources("cuda", 8, nodes=2, cores=16), 32, None, 999, True, Pool(8, 999, 0.1, sharers=4)),
        (Resources("cuda", 8, nodes=2, cores=16), 32, None, 999, False, Pool(8, 8, 0.1, sharers=4)),
        (Resources("cuda", 8, nodes=2, cores=16), 32, 2, 999, True, Pool(2, 2, 0.1, sharers=1)),
    ],
)
def test_the_pool_of_backbones_fills_the_cluster_and_leaves_room_to_decode(
    found, cpus, asked, chunks, others, expected, monkeypatch
):
    monkeypatch.setattr("icce_ray.stages.embed.others_cluster", lambda: others)
    pool = pool_of(found, {"CPU": cpus}, asked=asked, chunks=chunks)
    assert pool == expected
    assert pool.least * pool.cpus <= 0.5 * cpus


class FakeRay:
    """A cluster that gets `grown` after so many looks at it."""

    def __init__(self, monkeypatch, first, grown=None, looks=3):
        self.first, self.grown, self.left, self.groups = first, grown or first, looks, []
        monkeypatch.setattr(cluster.ray, "cluster_resources", self.resources)
        monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": self.grown}])
        monkeypatch.setattr(cluster, "gpus_of", lambda nodes: {"10.0.0.1": Gpus((Gpu("L4", 24 * 10**9, (8, 9)),))})
        monkeypatch.setattr(cluster, "placement_group", self.ask)
        monkeypatch.setattr(cluster, "remove_placement_group", self.groups.remove)
        monkeypatch.setattr(cluster, "WAIT_POLL_SECONDS", 0.001)
        self.asked = []

    def resources(self):
        self.left -= 1
        return self.first if self.left > 0 else self.grown

    def ask(self, bundles, strategy):
        self.asked.append(bundles)
        self.groups.append("group")
        return "group"


def test_gpus_of_an_autoscaling_cluster_are_asked_for_and_waited_for(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    fake, lines = FakeRay(monkeypatch, {"CPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}, looks=5), []
    monkeypatch.setattr(cluster, "WAIT_LINE_SECONDS", 0.0)
    found = resources(ResourceSettings(device="cuda", head_workers=2, wait_minutes=1), log=lines.append)
    assert (found.device, found.gpus) == ("cuda", 2)
    assert fake.asked == [[{"GPU": 1.0}, {"GPU": 1.0}]]
    assert fake.groups == []
    assert lines[0] == "the cluster has 0 of 2 GPUs: asked for, waiting up to 1 min"
    assert "0 of 2 GPUs, 0 of 1 min waited" in lines


@pytest.mark.parametrize(
    ("address", "first", "asked", "said"),
    [
        ("", {"CPU": 2.0}, {"device": "cuda"}, "resources.device = cuda, but the cluster has 0 GPUs"),
        ("it:1", {"CPU": 2.0}, {"device": "cuda"}, "needs 1 GPUs, but the cluster has 0 after 0.0001 min"),
        ("", {"CPU": 2.0, "GPU": 1.0}, {"device": "cuda", "embed_actors": 3}, "needs 3 GPUs, but the cluster has 1; "),
        ("it:1", {}, {}, "needs 1 CPUs, but the cluster has 0 after"),
    ],
)
def test_what_does_not_come_is_an_error_with_its_remedy(address, first, asked, said, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    fake = FakeRay(monkeypatch, first)
    with fails(RunError, said) as error:
        resources(ResourceSettings(wait_minutes=0.0001, **asked))
    assert any(remedy in str(error.value) for remedy in ("add nodes", "use a machine with one"))
    assert fake.groups == []


def test_a_run_that_began_on_gpus_waits_for_one(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    FakeRay(monkeypatch, {"CPU": 2.0})
    assert resources(ResourceSettings()).device == "cpu"
    with fails(RunError, "1 GPUs"):
        resources(ResourceSettings(wait_minutes=0.0001), device="cuda")


def announced(monkeypatch, *faults):
    """A cluster of a node with 16 CPUs and a GPU for each of `faults`, which torch finds there ("" is none)."""
    nodes = [
        {"Alive": True, "NodeID": str(number), "NodeManagerAddress": f"10.0.0.{number}", "Resources": GPU}
        for number in range(len(faults))
    ]
    found = {
        node["NodeManagerAddress"]: Gpus(fault=fault) if fault else Gpus((Gpu("L4", (24 - number) * 10**9, (8, 9)),))
        for number, (node, fault) in enumerate(zip(nodes, faults, strict=True))
    }
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 4.0 * len(nodes)})
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster, "gpus_of", lambda alive: found)


def test_the_smallest_gpu_is_what_there_is(monkeypatch):
    announced(monkeypatch, "", "")
    assert resources(ResourceSettings()) == Resources("cuda", gpus=8, nodes=2, cores=16, gpu_memory=23 * 10**9)


def test_gpus_that_torch_cannot_use_are_none_for_auto_and_an_error_for_cuda(monkeypatch):
    announced(monkeypatch, "driver too old", "driver too old")
    lines = []
    found = resources(ResourceSettings(), log=lines.append)
    assert (found.device, found.gpu_share, found.gpu_memory) == ("cpu", 0.0, 0)
    assert len(lines) == 1
    assert "2 of 2 nodes with GPUs; on 10.0.0.0: driver too old" in lines[0]
    with fails(RunError, "resources.device = cuda", "2 of 2", "driver too old", "resources.device=cpu"):
        resources(ResourceSettings(device="cuda"))


def test_a_node_whose_gpu_is_broken_among_good_ones_stops_the_run(monkeypatch):
    """Ray would give it work, whose failures never end."""
    announced(monkeypatch, "", "driver too old")
    with fails(RunError, "1 of 2", "10.0.0.1", "take those nodes out"):
        resources(ResourceSettings())


def test_tasks_under_way_grow_with_the_cluster(monkeypatch):
    room = {"CPU": 1.0}
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: room)
    limit = room_for(0.5)
    assert limit() == 4
    most = []

    def wait(references, num_returns):
        most.append(len(references))
        room["CPU"] = 2.0
        return references[:1], references[1:]

    monkeypatch.setattr(cluster.ray, "wait", wait)
    monkeypatch.setattr(cluster.ray, "get", lambda reference: reference)
    assert sorted(completed(range(20), limit)) == list(range(20))
    assert (most[0], max(most)) == (4, 8)


@pytest.mark.parametrize(
    ("shards", "tasks", "sizes"),
    [(0, 4, []), (3, 4, [1, 1, 1]), (16, 4, [1] * 16), (33, 4, [2] * 16 + [1]), (10_000, 4, [16] * 625)],
)
def test_groups_hold_every_shard_once_in_order(shards, tasks, sizes):
    groups = grouped(list(range(shards)), tasks)
    assert [len(group) for group in groups] == sizes
    assert [shard for group in groups for shard in group] == list(range(shards))
