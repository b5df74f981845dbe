"""What labelling asks Ray for: its tasks wait for storage, and must not bring up every GPU that a cluster can have."""

from types import SimpleNamespace

from icce_ray.io.storage import FileInfo
from icce_ray.stages import predict
from icce_ray.stages.cluster import Resources
from icce_ray.store.artifacts import FEATURES

GPUS = Resources("cuda", gpus=8, nodes=8, cores=16, gpu_memory=48 * 10**9)


class Task:
    """A remote function, with what is asked of Ray for it."""

    def __init__(self):
        self.asked = {}

    def options(self, **given):
        self.asked |= given
        return self

    def remote(self, root, shards, *_):
        return shards


def test_the_runs_own_images_are_labelled_without_gpus(monkeypatch):
    task = Task()
    monkeypatch.setattr(predict, "_label_shards", task)
    monkeypatch.setattr(predict, "completed_groups", lambda submit, shards, cpus: [submit(shards)])
    monkeypatch.setattr(predict, "write_shards", lambda store, table, rows, write, progress: list(write([0])))
    monkeypatch.setattr(predict, "_summary", lambda store, files, classes: {})
    info = FileInfo(path=FEATURES.part(0), bytes=1, sha256="", rows=5)
    store = SimpleNamespace(root="run", require=lambda stage: SimpleNamespace(files=[info]))
    files, _ = predict.run(SimpleNamespace(clusters=2), store, GPUS, None)
    assert files == [[(0, FEATURES.part(0))]]
    assert not task.asked.get("num_gpus")
