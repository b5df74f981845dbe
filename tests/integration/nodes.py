"""A Ray cluster of several nodes on this machine, in a process of its own: other tests have theirs in this one.

    python -m tests.integration.nodes CPUS ...     # CPUs of the head and of each node

It prints a JSON list (address, and the pid of each node's raylet but the head's), then takes away without grace each
node whose number is written to its standard input, adds one of one CPU for `more`, and ends the cluster with the end of
the input.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.processes import PATIENCE, descendants, left_of, name_of, processes, started, wait_for

MEMORY = 150 * 2**20
ROOT = Path(__file__).parents[2]


def main(head, *cpus):
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": head, "include_dashboard": False, "object_store_memory": MEMORY},
    )
    nodes = [cluster.add_node(num_cpus=count, object_store_memory=MEMORY, wait=False) for count in cpus]
    cluster.wait_for_nodes()
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    print(json.dumps([cluster.address, raylets]), flush=True)
    for line in sys.stdin:
        if line == "more\n":
            cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
            until_all_have_room(cluster.address)
            print("added", flush=True)
        else:
            cluster.remove_node(nodes[int(line)], allow_graceful=False)
            print("removed", flush=True)
    cluster.shutdown()


def until_all_have_room(address):
    """Wait until no placement group of the cluster is pending any more."""
    import ray
    from ray.util import placement_group_table

    ray.init(address=address, include_dashboard=False, log_to_driver=False)
    wait_for(lambda: {group["state"] for group in placement_group_table().values()} <= {"CREATED", "REMOVED"}, "room")
    ray.shutdown()


class Nodes:
    """The other side: `environment` for a driver on the cluster, and nodes to take away and to add."""

    def __init__(self, *cpus, temporary):
        self.environment = {"RAY_TMPDIR": str(temporary)}
        command = [sys.executable, "-m", "tests.integration.nodes", *map(str, cpus)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | self.environment,
            cwd=ROOT,
            text=True,
        )
        self.environment["RAY_ADDRESS"], self.raylets = json.loads(self.process.stdout.readline())

    def workers(self, title):
        """{pid: number of its node} of processes whose title begins so."""
        parents = {pid: parent for pid, (parent, _, _) in processes().items() if name_of(pid).startswith(title)}
        return {pid: self.raylets.index(parent) for pid, parent in parents.items() if parent in self.raylets}

    def remove(self, number):
        """Kill the node's processes, its workers too: it is gone as a spot instance is."""
        theirs = started(descendants(self.raylets[number]))
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "removed\n"
        wait_for(lambda: not left_of(theirs), "the end of a node")

    def add(self):
        """A node with one CPU; returns when whoever waited for room has been given it."""
        self.process.stdin.write("more\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "added\n"

    def close(self):
        theirs = started(descendants(self.process.pid))
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=PATIENCE)
        wait_for(lambda: not left_of(theirs), "the end of the cluster")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
