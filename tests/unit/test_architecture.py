"""The architecture: which layer may import what, read from the source of every module.

core <- io <- settings <- store <- stages <- pipeline <- cli <- jobs
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "icce_ray"
JOBS = PACKAGE.parent / "jobs"
MOST_LINES = 350


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Layer(NamedTuple):
    """Modules, and what they may import beside each other: parts of icce_ray, and packages beside Python's own."""

    modules: frozenset[str]
    below: frozenset[str] = names("")
    packages: frozenset[str] | None = None  # None: any but those of BANNED
    banned: frozenset[str] = frozenset()


FILES = "documents spelling terminal version io backbones search progress doctor"
#: From the lowest up.
LAYERS = {
    "core": Layer(
        names("core"), packages=names("torch numpy scipy openTSNE"), banned=names("os io pathlib shutil tempfile")
    ),
    "io": Layer(names(FILES), names("core"), banned=names("ray")),
    "settings": Layer(
        names("settings"), names("core.automatic core.recipe io.locations documents spelling"), names("pydantic")
    ),
    "store": Layer(
        names("store tracking trackers"),
        names("core.projection core.sampling core.spaces documents io settings version"),
        names("numpy pydantic pyarrow typing_extensions yaml mlflow tensorboardX wandb"),
    ),
    "estimator": Layer(names("estimator"), names("core search io progress"), banned=names("ray")),
    # They read what the stages wrote, without Ray; a page or an export of images without torch (`absent` below).
    "views": Layer(
        names("export report"),
        names(f"core.hierarchy settings store {FILES}"),
        names("numpy scipy pyarrow jinja2 plotly yaml torch transformers onnxruntime onnxscript PIL"),
    ),
    "stages": Layer(names("stages"), names(f"core settings store tracking trackers {FILES}")),
    "pipeline": Layer(
        names("pipeline commands planning refining"),
        names(f"core settings store report stages {FILES}"),
        banned=names("ray"),
    ),
    "cli": Layer(
        names("cli"),
        names(f"core settings store planning export report stages pipeline commands refining {FILES}"),
        banned=names("ray"),
    ),
    "face": Layer(
        names("__init__"), names("version estimator settings pipeline commands refining"), packages=names("")
    ),
}
#: In no module: code that runs what it reads.
BANNED_MODULES = names("pickle cPickle cloudpickle dill marshal shelve")
BANNED_CALLS = names("eval exec")

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all modules a source imports, inside functions too; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides its layer"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def calls(tree: ast.AST) -> set[str]:
    """Names of plain functions called, such as `open`."""
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def within(name: str, roots: frozenset[str]) -> bool:
    """Whether a dotted name is one of `roots` or lies in one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def layer_of(module: str) -> str:
    return next(name for name, layer in LAYERS.items() if within(module, layer.modules))


def faults(module: str, tree: ast.AST) -> list[str]:
    """What a module imports against the rule of its layer."""
    name = layer_of(module)
    layer = LAYERS[name]
    found = []
    for target in sorted(imports(tree)):
        package = target.split(".")[0]
        if package == "icce_ray":
            allowed = within(target.removeprefix("icce_ray."), layer.below | layer.modules)
        elif package in layer.banned | BANNED_MODULES:
            allowed = False
        elif layer.packages is None or package in sys.stdlib_module_names:
            allowed = True
        else:
            allowed = package in layer.packages
        if not allowed:
            found.append(f"{name} may not import {target}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_import_direction(module):
    assert faults(module, MODULES[module]) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.heads", "import ray"),
        ("core.heads", "from icce_ray.settings import load"),
        ("core.heads", "from pathlib import Path"),
        ("core.heads", "import pyarrow.parquet as pq"),
        ("io.storage", "def late():\n    import ray.data"),
        ("io.storage", "from icce_ray.store import Store"),
        ("settings", "from icce_ray.core.search import mine"),
        ("settings", "import torch"),
        ("store", "from icce_ray.progress import RunProgress"),
        ("store.lock", "from icce_ray.stages import heads"),
        ("store.lock", "import psutil"),
        ("estimator", "from icce_ray.stages import heads"),
        ("stages.heads", "from icce_ray import pipeline"),
        ("stages.heads", "import pickle"),
        ("pipeline", "import ray"),
        ("cli.main", "from ray import init"),
        ("__init__", "import numpy"),
    ],
)
def test_the_rules_catch(module, source):
    assert len(faults(module, ast.parse(source))) == 1


def test_every_module_has_a_layer_and_no_layer_reaches_up():
    assert {layer_of(module) for module in MODULES} == set(LAYERS)
    assert len(LAYERS) <= 10
    seen = set()
    for layer in LAYERS.values():
        assert {name.split(".")[0] for name in layer.below} <= seen
        seen |= layer.modules


def test_core_opens_no_files():
    assert [module for module, tree in MODULES.items() if layer_of(module) == "core" and "open" in calls(tree)] == []


def test_calls_are_found_at_any_depth():
    assert calls(ast.parse("def f():\n    return [eval(x) for x in open('a').read()]")) == {"eval", "open"}


def test_nothing_is_evaluated():
    assert [module for module, tree in MODULES.items() if calls(tree) & BANNED_CALLS] == []


def test_jobs_are_imported_by_nobody():
    importers = [
        module for module, tree in MODULES.items() if any(within(name, names("jobs")) for name in imports(tree))
    ]
    assert importers == []


def test_files_are_short_and_named_for_what_they_do():
    sizes = {path: len(path.read_text().splitlines()) for folder in (PACKAGE, JOBS) for path in folder.rglob("*.py")}
    assert {path.name: size for path, size in sizes.items() if size > MOST_LINES} == {}
    assert [path for path in sizes if path.stem in ("utils", "util", "helpers", "common", "misc")] == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("icce_ray", "torch ray numpy pyarrow pydantic"),
        ("icce_ray.settings", "torch ray"),
        ("icce_ray.store", "torch ray"),
        ("icce_ray.cli.main", "torch ray"),
        ("icce_ray.planning.plan", "ray transformers"),
        ("icce_ray.doctor", "torch ray"),
        ("icce_ray.export.formats", "torch ray"),
        ("icce_ray.report.page", "torch ray"),
        ("icce_ray.estimator", "ray icce_ray.settings"),
    ],
)
def test_imports_stay_light(module, absent):
    program = f"import sys, {module}; print(*sorted(set({absent.split()!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
