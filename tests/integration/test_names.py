"""Files of any name through Ray: each is embedded, labelled, predicted from a tar, exported and on the page once."""

import random
import tarfile

import pytest

from icce_ray import commands, pipeline
from icce_ray.export.formats import export_predictions
from icce_ray.io.filenames import to_bytes
from icce_ray.io.user_tables import read_user_table
from icce_ray.progress import Progress
from icce_ray.store import Store
from icce_ray.store.artifacts import REPORT
from icce_ray.store.verify import violations
from tests.integration.conftest import tiny
from tests.names import HOSTILE, is_hidden, written


def drawn(count):
    """Hostile names and random bytes, each in a folder of such a name."""
    random_ = random.Random(13)
    some = [random_.randbytes(random_.randint(1, 60)).replace(b"\0", b"_").replace(b"/", b"_") for _ in range(count)]
    return [b"/".join([name, name + b".png"]) for name in [*HOSTILE, *some] if not is_hidden(name)]


@pytest.mark.slow(60)
def test_every_name_comes_through(digits, tmp_path):
    folder = tmp_path / "images"
    pictures = sorted(digits[0].iterdir())
    folder.mkdir()
    names = written(folder, drawn(len(pictures)), lambda index: pictures[index % len(pictures)].read_bytes())
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(folder, arcname="")
    run = Store(str(tmp_path / "run"))
    pipeline.run(tiny(folder, run.root), verbose=False)
    new = Store(str(tmp_path / "new"))
    commands.predict(run.root, str(tmp_path / "a.tar"), new.root, verbose=False)
    assert run.storage.exists(REPORT)
    for store in (run, new):
        assert list(violations(store)) == []
        table = f"{store.root}.csv"
        assert export_predictions(store, "csv", table, Progress()).images == len(names)
        keys = read_user_table("table", table, ["key"])["key"].to_pylist()
        assert sorted(map(to_bytes, keys)) == sorted(names)
