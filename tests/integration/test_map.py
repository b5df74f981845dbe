"""The map of a run: a sample of its images, with their labels, places and nearest neighbours."""

import numpy as np
import pytest

from icce_ray.progress import Progress
from icce_ray.stages.cluster import Resources, resources
from icce_ray.stages.inspect import layout
from icce_ray.store import RunError
from icce_ray.store.artifacts import MAP
from tests.small_run import DRAWN, OVERRIDES, cosines, finds, made, replaced


class Heard(Progress):
    """Keeps how far the work was."""

    def __init__(self):
        self.done = []

    def update(self, done, **facts):
        self.done.append(done)


def mapped(store, progress=None):
    """The table of the map that the stage writes, and its figures."""
    settings = store.settings()
    files, figures = layout.run(settings, store, resources(settings.resources), progress or Progress())
    return (store.storage.read_table(files[0].path) if files else None), figures


def test_a_map_of_a_sample(tmp_path):
    """Drawn as any sample; the rows are those of other tables; twice the same; neighbours are on the map."""
    store, heard = made(tmp_path / "run", overrides=[*OVERRIDES, "seed=27", "inspect.map_images=3"]), Heard()
    found, figures = mapped(store, heard)
    assert figures == {"images": 3, "of": 5}
    assert found["image_id"].to_pylist() == DRAWN
    assert found["key"].to_pylist() == [f"{index}.png" for index in DRAWN]
    assert found["label"].to_pylist() == [0, 1, 1]
    assert np.isfinite([found[name].to_numpy() for name in ("x", "y")]).all()
    assert found["neighbor_ids"].to_pylist() == [[2, 4], [1, 4], [2, 1]]
    expected = [cosines(*pair) for pair in zip(DRAWN, found["neighbor_ids"].to_pylist(), strict=True)]
    np.testing.assert_allclose(found["similarities"].to_pylist(), expected, atol=1e-3)  # features are in half precision
    assert heard.done[-1] == sum(layout.STEPS.values())
    assert mapped(store)[0].equals(found)
    replaced(store, MAP.stage, MAP.path, found)
    finds(store)


def test_no_map_where_none_is_wanted_or_no_node_has_the_memory(tmp_path, monkeypatch):
    store = made(tmp_path / "run", overrides=[*OVERRIDES, "inspect.map_images=0"])
    assert mapped(store) == (None, {"images": 0, "of": 5})
    monkeypatch.setattr(layout, "layout_bytes", lambda n, dim: 1e15)
    store = made(tmp_path / "other")
    with pytest.raises(RunError, match=r"map of 5 images .*needs 1000000\.0 GB.*--redo inspect"):
        layout.run(store.settings(), store, Resources("cpu", 0, 1, 1), Progress())
