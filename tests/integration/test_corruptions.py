"""A run and a source with random damage: every command ends with a known status, and `verify` names what was done."""

import io
import json
import random
import re
import shutil
import signal
import tarfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray.cli.main import main

#: Damage of a run's files, of which some are tried in the fast tier, and of a source's.
OF_RUNS, OF_SOURCES, FAST_RUNS, FAST_SOURCES = 160, 40, 16, 4
#: What `icce verify` does not answer for: its docstring says why.
NO_RESULTS = ("report/", "metrics.jsonl", "tensorboard/")
#: What `icce predict` reads of a run.
READ_BY_PREDICT = ("run.yaml", "classifier/", "features/_manifest.json")
#: Seconds after which a command hangs.
PATIENCE = 120


def some(count, fast):
    return [seed if seed < fast else pytest.param(seed, marks=pytest.mark.slow(8)) for seed in range(count)]


@contextmanager
def not_for_ever(what):
    def hangs(*_):
        raise AssertionError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def ends(capsys, *arguments):
    """(exit status, what it printed) of a command in this process; any other end than an exit fails the test."""
    with not_for_ever(arguments), pytest.raises(SystemExit) as exited:
        main(args=list(map(str, arguments)))
    printed = capsys.readouterr()
    status = exited.value.code or 0
    assert status in (0, 1, 2, 3, 4), (arguments, status)
    assert "Traceback" not in printed.out + printed.err
    if status in (1, 2):
        assert "error: " in printed.err.replace("Error", "error"), (arguments, printed.err)
        assert len(printed.err) < 4000
    return status, printed.out + printed.err


def damaged(draw, root, path, others):
    """Flip a byte, cut, or exchange with another file; the names of files that now hold other bytes than before."""
    target, how = root / path, draw.choice(["flip", "flip", "cut", "swap"])
    data = target.read_bytes()
    if how == "swap":
        other = draw.choice(others)
        theirs = (root / other).read_bytes()
        (root / other).write_bytes(data)
        target.write_bytes(theirs)
        return [] if theirs == data else [path, other]
    if not data:
        return []
    place = draw.randrange(len(data))
    flipped = data[:place] + bytes([data[place] ^ draw.randrange(1, 256)]) + data[place + 1 :]
    target.write_bytes(flipped if how == "flip" else data[:place])
    return [path]


def kind_of(path):
    """Files of one kind are as likely as those of another, however many there are."""
    return re.sub(r"\d+", "", path)


@pytest.mark.parametrize("seed", some(OF_RUNS, FAST_RUNS))
def test_a_damaged_run(finished, digits, tmp_path, capsys, seed):
    draw, root = random.Random(seed), Path(shutil.copytree(finished.root, tmp_path / "run"))
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    kinds = sorted({kind_of(path) for path in files})
    kind = kinds[seed % len(kinds)]
    path = draw.choice([path for path in files if kind_of(path) == kind])
    changed = damaged(draw, root, path, [other for other in files if other != path])
    checked = [path for path in changed if not path.startswith(NO_RESULTS)]

    status, printed = ends(capsys, "verify", root)
    assert status == (4 if checked else 0), printed
    assert not checked or any(path in printed for path in checked), printed
    ends(capsys, "status", root)
    ends(capsys, "export", root, "--out", tmp_path / "out.csv", "--quiet")
    if seed % 3 == 0:
        ends(capsys, "report", root, "--quiet")
    if any(path.startswith(READ_BY_PREDICT) for path in changed):
        ends(capsys, "predict", root, digits[0], "--out", tmp_path / "predicted", "--quiet")
    ends(capsys, "run", digits[0], "--config", config_of(finished, tmp_path), "--out", root, "--quiet")


def config_of(store, folder):
    path = folder / "config.yaml"
    if not path.exists():
        settings = store.settings().model_dump(mode="json", exclude={"source", "out"})
        path.write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize(
    ("path", "how", "redo", "remedy"),
    [
        pytest.param("neighbors/part-000001.parquet", "cut", "heads", "--redo neighbors", marks=pytest.mark.slow(15)),
        ("classifier/classifier.json", "flip", "predict", "--redo classifier"),
        ("predictions/part-000099.parquet", "foreign", None, "--redo predict"),
    ],
)
def test_what_a_stage_rests_on_is_named_with_the_way_out(
    finished, copy, digits, tmp_path, capsys, path, how, redo, remedy
):
    target = Path(copy.root) / path
    if how == "foreign":
        shutil.copy(target.with_name("part-000000.parquet"), target)
        copy.storage.delete("predictions/_manifest.json")
    else:
        data = target.read_bytes()
        target.write_bytes(data[:100] if how == "cut" else data.replace(b"hog", b"hig"))
    again = ["run", digits[0], "--config", config_of(finished, tmp_path), "--out", copy.root, "--quiet"]
    status, printed = ends(capsys, *again, *(["--redo", redo] if redo else []))
    assert status == 1
    assert str(target) in printed
    assert remedy in printed
    assert how != "cut" or copy.marker("heads") is not None, "something was deleted before the look"
    assert ends(capsys, *again, *remedy.split())[0] == 0
    assert ends(capsys, "verify", copy.root)[0] == 0


@pytest.fixture(scope="session")
def sources(digits, tmp_path_factory):
    """A folder that holds a small source of each form."""
    folder = tmp_path_factory.mktemp("sources")
    pictures = sorted(digits[0].glob("*.png"))[:6]
    (folder / "files").mkdir()
    for path in pictures:
        shutil.copy(path, folder / "files")
    (folder / "list.txt").write_text("".join(f"files/{path.name}\n" for path in pictures))
    table = pa.table({"image": [path.read_bytes() for path in pictures], "key": [path.name for path in pictures]})
    pq.write_table(table, folder / "images.parquet")
    with tarfile.open(folder / "images.tar", "w") as tar:
        for path in pictures:
            tar.add(path, path.name)
    buffer = io.BytesIO()
    np.save(buffer, np.ones((6, 9), np.float32))
    (folder / "features.npy").write_bytes(buffer.getvalue())
    return folder


@pytest.mark.parametrize("seed", some(OF_SOURCES, FAST_SOURCES))
def test_a_damaged_source(finished, sources, tmp_path, capsys, seed):
    draw, root = random.Random(seed), Path(shutil.copytree(sources, tmp_path / "sources"))
    forms = {
        "images.tar": "images.tar",
        "images.parquet": "images.parquet",
        "list.txt": "list.txt",
        "files": f"files/{draw.randrange(6):04d}.png",
        "features.npy": "features.npy",
    }
    form = list(forms)[seed % len(forms)]
    others = [path for path in forms.values() if path != forms[form]]
    damaged(draw, root, forms[form], others)
    ends(capsys, "predict", finished.root, root / form, "--out", tmp_path / "predicted", "--quiet")
    if (tmp_path / "predicted/predictions/_manifest.json").exists():
        assert ends(capsys, "verify", tmp_path / "predicted")[0] == 0
