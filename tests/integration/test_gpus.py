"""A GPU that Ray announces and torch cannot use, and a machine without a compiler: a run that knows before it works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from icce_ray.store import Store

from .conftest import tiny

#: Two runs on a Ray with a GPU that is not there: one that insists on it, and one that does not.
RUNS = """
import json, os, sys
os.environ.pop("RAY_ADDRESS", None)
from icce_ray import pipeline
from icce_ray.settings import Settings
from icce_ray.stages.cluster import QUIET
from icce_ray.stages.connection import start_local_ray
from icce_ray.store import RunError

for name, value in QUIET.items():
    os.environ.setdefault(name, value)
start_local_ray(num_cpus=4, num_gpus=1, object_store_memory=150 * 2**20)
insists, obliges = [Settings.model_validate(one) for one in json.loads(sys.argv[1])]
try:
    pipeline.run(insists)
except RunError as error:
    print(error)
pipeline.run(obliges, last="heads")
"""


@pytest.mark.slow(60)
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
def test_auto_goes_on_without_a_gpu_that_torch_cannot_use_and_uncompiled_without_a_compiler(digits, tmp_path):
    insists = tiny(digits[0], tmp_path / "insists", resources={"device": "cuda"})
    obliges = tiny(digits[0], tmp_path / "obliges", resources={"compile": True})
    settings = json.dumps([one.model_dump(mode="json") for one in (insists, obliges)])
    done = subprocess.run(
        [sys.executable, "-c", RUNS, settings],
        env=os.environ | {"CXX": "no-such-compiler", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resources.device = cuda, but torch cannot use the GPUs of 1 of 1 nodes" in done.stdout
    assert "resources.device=cpu" in done.stdout
    assert Store(insists.out).storage.list("features") == []
    assert Store(obliges.out).require("heads").summary["heads"] == 5
    assert done.stderr.count("WARNING: resources.device = auto: torch cannot use the GPUs of 1 of 1 nodes") == 1
    assert done.stderr.count("WARNING: torch.compile does not work here") == 1


#: `icce WORDS` on a Ray with a GPU that is not there.
ICCE = """
import sys
from icce_ray.cli.main import main
from icce_ray.stages.connection import start_local_ray
start_local_ray(num_cpus=1, num_gpus=1, object_store_memory=150 * 2**20)
main()
"""


@pytest.mark.slow(40)
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
def test_the_doctor_of_a_cluster_names_the_node_its_faults_and_the_remedies(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ICCE, "doctor", "--cluster", "--out", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()[:-1]]
    [address] = {line.split()[1] for line in lines}
    assert any(line.startswith(f"ok {address} object store 0.2 GB; 16 MB came whole") for line in lines)
    assert f"ok {address} store {tmp_path / 'run'} can be written and read" in lines
    assert f"ok {address} packages as on the head" in lines
    [fault] = [line for line in lines if line.startswith(f"FAULT {address} CUDA")]
    assert 'pip install "icce-ray[gpu]"' in fault
