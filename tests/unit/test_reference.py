"""The API reference: pdoc builds it without a warning, what docstrings refer to exists, parameters are real ones."""

import ast
import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest

import icce_ray
from icce_ray.estimator import ICCE

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "icce_ray"
BUILD = runpy.run_path(str(ROOT / "docs/reference.py"))["main"]
#: Parts of the package whose names docstrings use without `icce_ray.`; `settings` is a variable nearly everywhere.
PARTS = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("_")} - {"settings"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_the_reference_is_built_without_a_warning(tmp_path):
    BUILD(tmp_path)
    text = (tmp_path / "icce_ray.html").read_text()
    missing = [name for name in icce_ray.__all__ if name != "__version__" and f'<section id="{name}">' not in text]
    assert missing == []
    assert "Share of rows that choose the classifier" in text
    assert 'id="ICCE.predict_proba"' in text
    fields = (tmp_path / "icce_ray/settings.html").read_text()
    assert '<div id="HeadsSettings.epochs"' in fields
    assert "Paper: 400, and 800 for small sets." in fields
    assert (tmp_path / "icce_ray/core/losses.html").is_file()
    assert not (tmp_path / "icce_ray/stages.html").exists()


@pytest.mark.parametrize("source", ['__all__ = ["gone"]', 'def f(x: "Gone"):\n    "Of a type that is not."'])
def test_what_pdoc_warns_of_is_an_error(tmp_path, monkeypatch, source):
    name = f"wrong{len(source)}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserWarning, match=r"(?i)gone"):
        BUILD(tmp_path / "out", modules=(name,))


def docstrings(tree):
    """Of modules, classes and functions, and of attributes: the strings that stand alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def referred(text):
    """Names in backticks that say where they are: of the package's parts, or of a class."""
    for name in re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(\))?`", text):
        first = name.split(".")[0]
        if not name.endswith(".json") and (first in PARTS or first == "icce_ray" or first[0].isupper()):
            yield name


def resolves(name):
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            fields = {} if not isinstance(found, type) else inspect.get_annotations(found)
            if part in fields:
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def broken(text, module):
    return [
        name
        for name in referred(text)
        if not any(resolves(one) for one in (name, f"icce_ray.{name}", f"{module}.{name}"))
    ]


def test_what_docstrings_refer_to_exists():
    faults = {}
    for path in SOURCES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        faults[module] = [name for text in docstrings(ast.parse(path.read_text())) for name in broken(text, module)]
    assert {module: names for module, names in faults.items() if names} == {}
    assert len(faults) > 100


def test_references_to_nothing_are_found():
    text = "See `core.heads.gone`, `ICCE.fits`, `icce_ray.gone`, but `core.heads`, `ICCE.fit`, `heads.epochs`, `a.csv`."
    assert broken(text, "icce_ray.estimator") == ["core.heads.gone", "ICCE.fits", "icce_ray.gone"]


def test_the_parameters_of_the_clusterer_are_those_it_takes():
    """ruff's DOC102 looks at the other functions; this docstring has scikit-learn's form."""
    text = inspect.cleandoc(str(ICCE.__doc__)).split("Parameters\n----------\n")[1].split("Attributes\n")[0]
    named = [name.strip() for line in text.splitlines() if line[:1].strip() for name in line.split(":")[0].split(",")]
    assert named == list(inspect.signature(ICCE).parameters)
