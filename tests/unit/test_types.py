"""py.typed is true: what `icce_ray` exports is typed in full, as a type checker outside sees it."""

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import icce_ray

ROOT = Path(__file__).parents[2]
#: Where the public names are defined; what lies below them is public too.
PUBLIC = (
    "icce_ray.estimator.ICCE",
    "icce_ray.pipeline.run",
    "icce_ray.commands.predict",
    "icce_ray.commands.evaluate",
    "icce_ray.settings.loading",
    "icce_ray.settings.models",
    "icce_ray.settings.stages",
)
#: scikit-learn has no types, so its base classes have none.
FOREIGN = {("icce_ray.estimator.ICCE", f"Type of {kind} unknown") for kind in ("metaclass", "base class")}


@pytest.fixture(scope="module")
def symbols(tmp_path_factory):
    """Symbols of pyright's report on the whole package by name, and the names under which some are known too."""
    pyright = Path(sys.executable).with_name("pyright")
    done = subprocess.run(
        [pyright, "--pythonpath", sys.executable, "--verifytypes", "icce_ray", "--ignoreexternal", "--outputjson"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # an editable installation is not found otherwise
        cwd=tmp_path_factory.mktemp("outside"),
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)["typeCompleteness"]
    assert report["pyTypedPath"]
    return {one["name"]: one for one in report["symbols"]}


def test_py_typed_is_in_the_package():
    assert resources.files("icce_ray").joinpath("py.typed").is_file()


@pytest.mark.slow(12)
def test_every_public_name_is_known(symbols):
    known = {other for one in symbols.values() for other in (one["name"], *one.get("alternateNames", ()))}
    assert {f"icce_ray.{name}" for name in icce_ray.__all__} - {"icce_ray.__version__"} <= known


@pytest.mark.slow(1)
def test_the_public_names_are_typed_in_full(symbols):
    public = {name: one for name, one in symbols.items() if f"{name}.".startswith(tuple(f"{p}." for p in PUBLIC))}
    assert len(public) > 150
    faults = {
        (name, message["message"].splitlines()[0])
        for name, one in public.items()
        if not one["isTypeKnown"] or one["isTypeAmbiguous"]
        for message in one["diagnostics"] or [{"message": "not known"}]
    }
    assert faults == FOREIGN
