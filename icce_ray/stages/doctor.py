"""`icce doctor --cluster`: the checks of `icce_ray.doctor` on every node, and what a cluster has beside them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping

import numpy as np
import ray

from icce_ray.doctor import Check, examine, installed
from icce_ray.io.storage import Storage
from icce_ray.stages.gpus import answers, on_node

#: What goes to every node through the object store.
_SENT_BYTES = 16 * 2**20
#: Seconds in which a node has to answer: the start of Python and torch, a compilation, a store that is waited for.
_ANSWER_SECONDS = 300.0


def examine_cluster(out: str | None = None) -> dict[str, list[Check]]:
    """The checks of every node that is alive, by address; versions are compared with those of this process.

    A run is to be written to `out`. Raises LocationError or OSError if this process cannot write there.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sent, versions = ray.put(np.ones(_SENT_BYTES, np.uint8)), installed()
    with _written(out) as (root, file):
        tasks = {
            node["NodeID"]: on_node(_examine, node["NodeID"]).remote(sent, versions, node["Resources"], root, file)
            for node in nodes
        }
        found = answers(tasks, _ANSWER_SECONDS, _unanswered)
    addresses = [node["NodeManagerAddress"] for node in nodes]
    names = [  # several nodes of one machine, as in tests
        address if addresses.count(address) == 1 else f"{address} {node['NodeID'][:6]}"
        for address, node in zip(addresses, nodes, strict=True)
    ]
    return {name: found[node["NodeID"]] for name, node in zip(names, nodes, strict=True)}


@contextlib.contextmanager
def _written(out: str | None) -> Iterator[tuple[str | None, str | None]]:
    """The place as every node is to know it, and a file that lies there meanwhile, for nodes to see."""
    if out is None:
        yield None, None
        return
    storage, file = Storage(out), f"doctor-{uuid.uuid4().hex}"
    storage.write_bytes(file, b"of the head")
    try:
        yield storage.root, file
    finally:
        storage.delete(file)


def _unanswered(reason: str) -> list[Check]:
    remedy = "look whether icce-ray is installed on this node, with Python and Ray of the head's versions"
    return [Check("node", reason, remedy)]


@ray.remote(num_cpus=0, max_calls=1)  # with the task its process ends, and what it holds on the GPUs
def _examine(
    sent: np.ndarray, versions: Mapping[str, str], resources: Mapping[str, float], out: str | None, file: str | None
) -> list[Check]:
    size = resources.get("object_store_memory", 0.0)
    arrived = int(sent.sum()) == _SENT_BYTES
    store = Check(
        "object store",
        f"{size / 1e9:.1f} GB; {_SENT_BYTES / 2**20:.0f} MB came {'whole' if arrived else 'damaged'}",
        "" if arrived else "look at the network between the nodes, and at /dev/shm",
    )
    gpu = resources.get("GPU", 0.0) >= 1
    return [store, *examine(out, gpu=gpu, store_file=file, object_store=size, versions=versions)]
