"""GPUs that are asked for on a cluster without any: Ray's own autoscaler brings them, and takes them away again.

Its nodes are processes of this machine, which announce GPUs that they do not have.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from tests.processes import PATIENCE, descendants, end, left_of, started, wait_for

from .test_jobs import RAY, free_port

HEAD_ID = "f" * 51 + "00000"  # by this name the fake provider knows the head
ASKS = """
import time, ray
from icce_ray.core.gpus import Gpu, Gpus
from icce_ray.settings import ResourceSettings
from icce_ray.stages import cluster
from icce_ray.stages.cluster import resources
from icce_ray.stages.connection import connected
cluster.gpus_of = lambda nodes: {"pretended": Gpus((Gpu("pretended", 1, (1, 0)),))}
with connected():
    assert "GPU" not in ray.cluster_resources()
    found = resources(ResourceSettings(device="cuda", head_workers=2, wait_minutes=3), log=print)
    print(found.device, found.gpus, found.nodes, found.cores)
    while "GPU" in ray.cluster_resources():  # nothing asks for them any more
        time.sleep(0.2)
"""
pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes"),
    pytest.mark.slow(60),
]


def settings_of_a_cluster(port):
    """A head without GPUs, and up to two nodes with one each, as Ray's launcher would leave it on the head."""
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    commands = ["initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"]
    return {
        "cluster_name": "pretended",
        "provider": {
            "type": "external",
            "module": provider,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "max_workers": 2,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 4,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        **{f"{name}_commands": [] for name in commands},
        **{"docker": {}, "auth": {}, "file_mounts": {}, "cluster_synced_files": [], "rsync_exclude": []},
        **{"rsync_filter": [], "file_mounts_sync_continuously": False},
    }


@pytest.fixture
def autoscaling_cluster():
    """Environment of a driver there."""
    with tempfile.TemporaryDirectory(prefix="icce-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        port, log = free_port(), Path(folder) / "log.txt"
        (Path(folder) / "cluster.yaml").write_text(yaml.safe_dump(settings_of_a_cluster(port)))
        mine = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        heads = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1"}
        heads |= {"PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"}  # the provider calls `ray start`
        heads |= {"RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
        command = ["start", "--head", "--block", "--num-cpus=1", "--include-dashboard=false", f"--port={port}"]
        more = [f"--autoscaling-config={folder}/cluster.yaml", "--object-store-memory=100000000"]
        with log.open("wb") as file:
            head = subprocess.Popen(
                [RAY, *command, *more, f"--temp-dir={folder}"],
                stdout=file,
                stderr=file,
                env=os.environ | mine | heads,
                start_new_session=True,
            )
        wait_for(lambda: head.poll() is not None or "block forever" in log.read_text(), "a head", poll=0.2)
        assert head.poll() is None, log.read_text()
        yield mine | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        theirs = started(descendants(head.pid))
        end(theirs)
        head.wait()
        wait_for(lambda: not left_of(theirs), "the end of the cluster")


def test_gpus_come_when_they_are_asked_for_and_go_when_they_are_not(autoscaling_cluster):
    done = subprocess.run(
        [sys.executable, "-c", ASKS],
        env=os.environ | autoscaling_cluster,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()  # among them what Ray's processes write, whenever they do
    assert "the cluster has 0 of 2 GPUs: asked for, waiting up to 3 min" in lines
    assert "cuda 2 3 2" in lines
