"""What is built from the tree: an sdist that builds the wheel, and a wheel with all that the package reads."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import icce_ray

ROOT = Path(__file__).parents[2]
#: Top-level names that a build may look at; environments, runs and earlier builds are not copied.
SOURCES = (
    *("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"),
    *("Dockerfile", ".dockerignore", "cluster.yaml", "constraints.txt", "docs", "icce_ray", "jobs", "tests"),
    *("mkdocs.yml", "CITATION.cff", "SECURITY.md"),
)
NAME = f"icce_ray-{icce_ray.__version__}"
WHEEL = f"{NAME}-py3-none-any.whl"
#: Calls the backend of pyproject.toml as `python -m build --no-isolation` does: no network is asked.
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def build(what, tree, into):
    command = [sys.executable, "-W", "error", "-c", BUILD, f"build_{what}", into]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and the wheel that the unpacked sdist gives."""
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    tree.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    build("sdist", tree, folder)
    with tarfile.open(folder / f"{NAME}.tar.gz") as sdist:
        sdist.extractall(folder / "unpacked", filter="data")
    build("wheel", folder / "unpacked" / NAME, folder)
    return folder


def files_below(tree, folder):
    """Paths from `tree` on; what other tests leave in the repository while they run does not count."""
    return {path.relative_to(tree).as_posix() for path in (tree / folder).rglob("*") if path.is_file()}


def metadata(built):
    with zipfile.ZipFile(built / WHEEL) as wheel:
        return message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))


def test_the_wheel_holds_the_whole_package_and_nothing_else(built):
    with zipfile.ZipFile(built / WHEEL) as wheel:
        names = {name for name in wheel.namelist() if not name.startswith(f"{NAME}.dist-info/")}
    assert names == files_below(built / "tree", "icce_ray")
    assert {"icce_ray/py.typed", "icce_ray/planning/rates.yaml"} <= names


def test_the_sdist_holds_what_its_tests_and_readme_speak_of(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as sdist:
        found = {info.name.removeprefix(f"{NAME}/") for info in sdist if info.isfile()}
    given = files_below(built / "tree", ".")
    assert {name for name in found if ".egg-info/" not in name} == {
        *(name for name in given if ".egg-info/" not in name),
        *("PKG-INFO", "setup.cfg"),
    }


def test_the_version_is_written_in_one_place(built):
    assert metadata(built)["Version"] == icce_ray.__version__
    project = (ROOT / "pyproject.toml").read_text()
    assert f'"{icce_ray.__version__}"' not in project
    assert 'dynamic = ["version"]' in project


def test_the_command_is_an_entry_point(built):
    with zipfile.ZipFile(built / WHEEL) as wheel:
        entries = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
    assert entries.split() == ["[console_scripts]", "icce", "=", "icce_ray.cli.main:main"]


def required(built, extra=""):
    """Names of the packages that an extra brings, other extras of ours included; without one, of the plain package."""
    found = [Requirement(line) for line in metadata(built).get_all("Requires-Dist")]
    names = set()
    for one in found:
        wanted = one.marker is None if not extra else one.marker is not None and one.marker.evaluate({"extra": extra})
        if wanted and one.name == "icce-ray":
            names |= set().union(*(required(built, other) for other in one.extras))
        elif wanted:
            names.add(one.name)
    return names


def test_extras(built):
    """FAISS is nobody's by default, and no extra brings two packages that write the folder faiss/."""
    extras = set(metadata(built).get_all("Provides-Extra"))
    assert extras == {"faiss", "gpu", "cluster", "gcs", "azure", "mlflow", "wandb", "timm", "lance", "export", "dev"}
    brought = {extra: required(built, extra) & {"faiss-cpu", "faiss-gpu"} for extra in extras}
    assert not {"faiss-cpu", "faiss-gpu"} & required(built)
    assert {extra: names for extra, names in brought.items() if names} == {
        "faiss": {"faiss-cpu"},
        "gpu": {"faiss-gpu"},
        "dev": {"faiss-cpu"},
    }
    assert "torch" in required(built, "gpu")


@pytest.mark.slow(60)
@pytest.mark.parametrize(("extra", "expected"), [("faiss", "faiss-cpu"), ("gpu", "faiss-gpu")])
def test_extras_resolve(built, tmp_path, extra, expected):
    """With the pinned versions and all that the package needs, as pip would install them, where there is an index."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if subprocess.run([*pip, "index", "versions", expected], capture_output=True, check=False).returncode:
        pytest.skip("no package index is reachable")
    command = [*pip, "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary", ":all:"]
    command += ["--report", tmp_path / "found.json", "-c", ROOT / "constraints.txt", f"{built / WHEEL}[{extra}]"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = {one["metadata"]["name"] for one in json.loads((tmp_path / "found.json").read_text())["install"]}
    assert {name for name in found if "faiss" in name} == {expected}


def test_the_wheel_runs_from_a_bare_directory(built, tmp_path):
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, built / WHEEL], check=True, capture_output=True)
    environment = {"PYTHONPATH": str(target), "PATH": ""}
    where = [sys.executable, "-c", "import icce_ray; print(icce_ray.__file__)"]
    for command, text in [
        (where, str(target / "icce_ray" / "__init__.py")),
        ([target / "bin" / "icce", "--version"], f"icce-ray {icce_ray.__version__}"),
        ([target / "bin" / "icce", "plan", "--images", "1000", "--clusters", "10", "--model", "hog"], "measured"),
    ]:
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert text in result.stdout
