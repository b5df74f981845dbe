"""`icce doctor` of one machine: what it finds, what it calls a fault, and that it asks for nothing to find it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from icce_ray import doctor
from icce_ray.core import compiling
from icce_ray.core.gpus import Gpu, Gpus

NAMES = ["packages", "driver", "CUDA", "NCCL", "compiler", "compile", "/dev/shm"]


@pytest.fixture(autouse=True)
def compiles(monkeypatch):
    """A machine that can compile: to find out takes ten seconds, and is `core/test_compiling.py`'s."""
    monkeypatch.setattr(compiling, "compile_fault", lambda device: "")


def faults(**given):
    return {check.name: (check.found, check.remedy) for check in doctor.examine(**given) if check.remedy}


def test_every_line_says_what_was_found_and_faults_have_remedies(icce, tmp_path):
    status, text, error = icce("doctor", "--out", tmp_path / "run")
    lines = [line.split(maxsplit=4) for line in text.splitlines()]
    assert (status, error) == (0, "")
    assert [words[3] for words in lines[:-1]] == [*NAMES, "store"]
    assert text.splitlines()[-1] == "no faults"
    assert not (tmp_path / "run").exists()

    (tmp_path / "file").write_text("in the way of a folder")
    status, text, _ = icce("doctor", "--out", tmp_path / "file" / "run")
    [line] = [line for line in text.splitlines() if line.startswith("FAULT")]
    assert (status, "store" in line, "rights of its credentials" in line) == (1, True, True)
    assert text.splitlines()[-1] == "1 fault"


def test_a_place_that_can_only_be_read_is_refused_before_anything_is_looked_at(icce):
    status, text, error = icce("doctor", "--out", "https://example.org/run")
    assert (status, text, "can only be read" in error) == (2, "", True)


def test_it_works_where_ray_is_not_installed():
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from icce_ray.core import compiling; compiling.compile_fault = lambda device: ''\n"
        "from icce_ray.cli.main import main; sys.argv = ['icce', 'doctor']; main()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("no faults\n")


def test_gpus_that_should_be_there_and_are_not(monkeypatch):
    monkeypatch.setattr(doctor, "_has_driver", lambda: False)
    monkeypatch.setattr(doctor, "probe_gpus", lambda: Gpus(fault="torch is built for CPUs only; install another"))
    found = faults(gpu=True)
    assert found["CUDA"] == ("torch is built for CPUs only", "install another")
    assert "docker run --gpus all" in found["driver"][1]
    assert faults() == {}


def test_what_only_gpus_need_is_a_fault_beside_one(monkeypatch):
    monkeypatch.setattr(doctor, "probe_gpus", lambda: Gpus((Gpu("L40S", 48 * 10**9, (8, 9)),)))
    monkeypatch.setattr(doctor, "_has_driver", lambda: False)
    monkeypatch.setattr(compiling, "compile_fault", lambda device: "torch.compile does not work; install a compiler")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    found = faults(gpu=True)
    assert set(found) == {"driver", "NCCL", "compiler", "compile"}
    assert found["compile"] == ("torch.compile does not work", "install a compiler")
    assert "apt-get install g++ python3-dev" in found["compiler"][1]
    monkeypatch.setattr(doctor, "probe_gpus", lambda: pytest.fail("there is no driver, and nobody expects a GPU"))
    assert faults() == {}


def test_other_versions_than_the_heads_are_named_and_builds_of_one_version_are_not(monkeypatch):
    here = doctor.installed()
    there = here | {"torch": here["torch"].partition("+")[0] + "+cu130"}
    assert faults(versions=there) == {}
    found, remedy = faults(versions=there | {"numpy": "1.0"})["packages"]
    assert found == f"numpy {here['numpy']} (the head has 1.0)"
    assert "constraints.txt" in remedy


@pytest.mark.parametrize(("size", "object_store", "wrong"), [(64e6, 0.0, True), (4e9, 8e9, True), (9e9, 8e9, False)])
def test_shared_memory_is_enough_for_the_object_store(monkeypatch, size, object_store, wrong):
    about = SimpleNamespace(f_frsize=1, f_blocks=int(size), f_bavail=int(size))
    monkeypatch.setattr(doctor.os, "statvfs", lambda path: about)
    assert ("/dev/shm" in faults(object_store=object_store)) == wrong


def test_a_folder_that_is_another_one_on_this_node_is_a_fault(tmp_path):
    (tmp_path / "theirs").write_bytes(b"of the head")
    assert faults(out=str(tmp_path), store_file="theirs") == {}
    found, remedy = faults(out=str(tmp_path), store_file="gone")["store"]
    assert str(tmp_path) in found
    assert "URI that all nodes reach" in remedy
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
