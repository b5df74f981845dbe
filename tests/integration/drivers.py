"""`icce` in a process of its own, killed while it is held at a barrier, and what a run must look like after it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import ray
import yaml

from icce_ray.io.stores import is_local, resolve
from icce_ray.store.verify import violations
from tests.processes import PATIENCE, end, left_of, name_of, of_session, started, wait_for
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY

ICCE = str(Path(sys.executable).with_name("icce"))
# Ray's agents look for their cluster for a minute after it is gone; nothing else may outlive a driver.
AGENTS = ("ray::RuntimeEnvAgent", "ray::DashboardAgent")


def shared_cluster():
    """Environment of a driver on the Ray of this session: it starts in seconds, and its death is the driver's alone."""
    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


def run_command(settings, folder):
    """Words of `icce run` with these settings."""
    config = settings.model_dump(mode="json", exclude={"source", "out", "clusters", "seed"})
    (folder / "settings.yaml").write_text(yaml.safe_dump(config))
    options = ["--clusters", settings.clusters, "--config", folder / "settings.yaml"]
    return ["run", settings.source, "--out", settings.out, *options]


class Driver:
    """`icce WORDS` in a process group and with a Ray of its own, or with one that `environment` names."""

    def __init__(self, words, folder, ends, environment=None):
        self.log, self._agents = folder / "log.txt", {}
        mine = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | (environment or {})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [ICCE, *map(str, words)], stdout=log, stderr=log, env=mine, start_new_session=True
            )
        ends.callback(self._end)

    def _end(self):
        self.process.kill()
        self.process.wait()
        end(self._agents)

    def check(self):
        """Raise if it has ended."""
        assert self.process.poll() is None, f"the driver ended with {self.process.returncode}:\n{self.log.read_text()}"

    def kill_at(self, barrier):
        """Kill -9 while something is held there; a Ray of its own, and who is held, must go with it."""
        try:
            barrier.reached(self.check)
        finally:
            self.process.kill()
            theirs = of_session(self.process.pid) | started(barrier.held())
            self._agents |= {pid: theirs.pop(pid) for pid in list(theirs) if name_of(pid).startswith(AGENTS)}
            self.process.wait()
        assert self.process.returncode == -signal.SIGKILL
        wait_for(lambda: not left_of(theirs), f"the end of the killed driver's processes {theirs}")
        barrier.release()

    def finish(self):
        assert self.process.wait(timeout=PATIENCE) == 0, self.log.read_text()


def table(store, artifact, columns=None):
    """All shards of an artifact, in the order of their names."""
    paths = [name for name, _ in store.storage.list(artifact) if "/part-" in name]
    return pa.concat_tables([store.storage.read_table(path, columns) for path in paths])


def rows(store, artifact):
    """All rows of an artifact's shards, in the order of their names."""
    return table(store, artifact).to_pylist()


def stamps(store, *names):
    """When each file of a run, or those whose names begin so, was last changed; in a bucket to the second."""
    filesystem, _ = resolve(store.root)
    filesystem.invalidate_cache()

    def stamp(path):
        return os.stat(path).st_mtime_ns if is_local(filesystem) else filesystem.modified(path)

    names = [name for name, _ in store.storage.list() if name.startswith(names or "")]
    return {name: stamp(store.storage.full_path(name)) for name in names}


def assert_as_if_unbroken(store, unbroken, images):
    """Every image once, the features and labels of an unbroken run, and nothing for `verify` to find."""
    for artifact in ("features/status=ok", "consensus", "predictions", "head_labels"):
        assert rows(store, artifact) == rows(unbroken, artifact)
    for artifact in ("manifest", "neighbors"):
        assert [row["image_id"] for row in rows(store, artifact)] == list(range(images))
    assert list(violations(store)) == []


def assert_no_secret(store, *texts):
    """Neither key in anything that the run has written, in any file's plain bytes or table."""
    names = [name for name, _ in store.storage.list()]
    assert "run.yaml" in names
    for text in [*texts, *(store.storage.read_bytes(name) for name in names)]:
        assert ACCESS_KEY.encode() not in text
        assert SECRET_KEY.encode() not in text
    for name in names:
        if name.endswith(".parquet"):
            assert SECRET_KEY not in str(store.storage.read_table(name).to_pylist())
