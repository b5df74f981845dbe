"""The walk-throughs of CONTRIBUTING.md, followed in a copy of the package: what they add works, and is short."""

import ast
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = {part.splitlines()[0]: part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]}
LESS_THAN = 20

#: What is done with what each walk-through adds; every assertion is about the copy.
PROGRAMS = {
    "Add a consensus method": """
import numpy as np
from icce_ray.search.partition import PARTITIONERS
from icce_ray.core.consensus import consensus
from icce_ray.core.metrics import accuracy

rng = np.random.default_rng(0)
truth = np.repeat(np.arange(5), 60)
wrong = rng.random((300, 8)) < 0.2
labels = np.where(wrong, rng.integers(0, 5, (300, 8)), np.stack([rng.permutation(5)[truth] for _ in range(8)], 1))
found = consensus(labels, 5, PARTITIONERS, methods=["qmi"])
assert found.method == "qmi" and list(found.scores) == ["qmi"], found
assert accuracy(truth, found.candidates["qmi"]) > 0.95, found.scores
assert (found.label == consensus(labels, 5, PARTITIONERS, methods=["qmi"]).label).all()
assert set(consensus(labels, 5, PARTITIONERS).scores) == {"cspa", "hgpa", "mcla", "hbgf", "qmi"}
assert settings(consensus={"methods": ["qmi"]}).consensus.methods == ("qmi",)
""",
    "Add a backbone": """
import numpy as np
from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.io.decode import decode

chosen = settings(embed={"backbone": "grid", "features": "grid"}).embed
info = describe_backbone(chosen.backbone, chosen.features)
backbone = load_backbone(info)
pixels = np.stack([decode(png(color), size=info.image_size, resize="squash", max_pixels=10**6) for color in COLORS])
main = backbone.embed(pixels).main
assert main.shape == (2, info.dim) == (2, backbone.info.dim) and main.dtype == np.float32, main
assert (main.reshape(2, 16, 3) == np.array(COLORS)[:, None]).all()
assert backbone.embed(pixels[:0]).main.shape == (0, 48)
pixels[0, 8:16, 24:] = 7  # one cell: second row, last column
assert np.flatnonzero((backbone.embed(pixels).main != main).any(0)).tolist() == [21, 22, 23]
""",
    "Add a source": """
from zipfile import ZipFile
from icce_ray.io.decode import Reject
from icce_ray.io.sources import SourceSpec, find_source, open_source

with ZipFile("two.zip", "w") as archive:
    archive.writestr("b.png", png(COLORS[1]))
    archive.writestr("a/<i>.png", png(COLORS[0]))
chosen = settings(source="two.zip", list={"format": "zip"})
source = find_source(SourceSpec(chosen.source, chosen.list.format))
(table,) = source.listing()
assert table["uri"].to_pylist() == ["a/<i>.png", "b.png"]
again = open_source(source.spec)
assert list(again.read_span(table, 10**6)) == [png(color) for color in COLORS]
assert list(again.listing()) == [table] and again.digest() == source.digest()
first, second = again.read_span(table, len(png(COLORS[0])) - 1)
assert isinstance(first, Reject) and first.reason == "too_many_bytes"
""",
    "Add an artifact": """
import pyarrow as pa
from icce_ray.store import Store, artifacts
from icce_ray.store.contents import Contents

def written(*labels):
    keys = ["a", "b", "c"]
    table = {"image_id": [0, 1, 2], "key": keys, "label": pa.array(labels, pa.int32())}
    info = artifacts.RUNNERS_UP.write(store.storage, pa.table(table), 0)
    markers = {
        stage: store.commit(stage, files, fingerprint="f", summary=summary, seconds=0)
        for stage, files, summary in (("list", [names], {"images": 3}), ("consensus", [info], {}))
    }
    contents = Contents(store, markers, settings())
    contents.ids["learned"] = contents.ids["listed"]
    return list(contents.artifact(artifacts.RUNNERS_UP))

store = Store("run")
names = pa.table({"image_id": [0, 1, 2], "uri": ["a", "b", "c"], "key": ["a", "b", "c"]})
names = store.storage.write_table(artifacts.MANIFEST.part(0), names)
assert written(4, 0, 4) == []
(line,) = written(4, 0, 5)
assert line.startswith("consensus: runners_up/part-000000.parquet has label from 0 to 5"), line
store.discard_from("consensus")
assert store.storage.list("runners_up") == []
""",
}
PRELUDE = """
import io, pathlib
import icce_ray
from PIL import Image
from icce_ray.settings import load

assert pathlib.Path(icce_ray.__file__).is_relative_to(pathlib.Path.cwd())
COLORS = [(250, 10, 10), (10, 20, 250)]

def png(color):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(file, "png")
    return file.getvalue()

def settings(**given):
    return load({"source": "photos", "clusters": 5, "out": "run"} | given)
"""


def blocks(section):
    """(language, path, lines) of every block of code that names a file."""
    return [
        (language, path, code.splitlines())
        for language, path, code in re.findall(r"^```(\w+) (\S+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    ]


def changed(text, hunk):
    """`text` with one hunk applied; the lines that it replaces or stands beside must be there exactly once."""
    assert {line[0] for line in hunk} <= set(" +-"), hunk
    old = "".join(f"\n{line[1:]}" for line in hunk if line[0] != "+") + "\n"
    new = "".join(f"\n{line[1:]}" for line in hunk if line[0] != "-") + "\n"
    assert text.count(old) == 1, f"there {text.count(old)} times: {old}"
    return text.replace(old, new)


def follow(section, tree):
    """Apply a walk-through to a copy of the repository and return the lines that it has one write."""
    written = []
    for language, name, lines in blocks(section):
        path = tree / name
        if language == "python":
            assert not path.exists()
            path.write_text("\n".join(lines) + "\n")
            written += [line for line in lines if line]
            continue
        assert language == "diff"
        text = path.read_text()
        for there, hunk in groupby(lines, key=bool):
            text = changed(text, list(hunk)) if there else text
        path.write_text(text)
        written += [line for line in lines if line.startswith("+")]
    return written


def test_every_walk_through_is_followed():
    assert {name for name in SECTIONS if name.startswith("Add ")} == set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_walk_through(name, tmp_path):
    shutil.copytree(ROOT / "icce_ray", tmp_path / "icce_ray", ignore=shutil.ignore_patterns("__pycache__"))
    written = follow(SECTIONS[name], tmp_path)
    assert 5 < len(written) < LESS_THAN
    assert max(map(len, written)) <= 120
    command = [sys.executable, "-W", "error", "-c", PRELUDE + PROGRAMS[name]]
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def definitions(path):
    """Names of functions, classes and methods that a file defines, as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("walk", re.split(r"^### ", SECTIONS["Three walks"], flags=re.MULTILINE)[1:])
def test_walks_name_what_is_there_and_count_their_files(walk):
    stops = re.findall(r"`(icce_ray/[\w/]+\.py):([\w.]+)`", walk)
    assert [f"{path}:{name}" for path, name in stops if name not in definitions(ROOT / path)] == []
    assert len({path for path, _ in stops}) == int(re.search(r": (\d+) files", walk)[1])


def test_an_edit_whose_place_has_gone_is_an_error():
    with pytest.raises(AssertionError, match="there 0 times"):
        changed("\na = 1\n", ["-a = 2", "+a = 3"])
    with pytest.raises(AssertionError, match="there 2 times"):
        changed("\na = 1\nb\na = 1\n", ["-a = 1", "+a = 3"])
    assert changed("x\na = 1\n", [" a = 1", "+b = 2"]) == "x\na = 1\nb = 2\n"


def test_links_and_files_are_there():
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, heading = link.partition("#")
        text = (ROOT / path).read_text()
        assert not heading or f"\n## {heading.replace('-', ' ')}\n" in text.lower(), link
    for name in re.findall(r"tests/[\w/]+(?:\.py)?", TEXT):
        assert (ROOT / name).exists(), name
