"""Drivers killed in the middle of every stage: the same command finishes the run, and the result does not show it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open

from icce_ray import pipeline
from icce_ray.stages.verify import violations
from icce_ray.store import Store

from .conftest import tiny, write_digits

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")

IMAGES, POLL, PATIENCE = 160, 0.004, 120
# Stages long enough to be hit: many small shards, large pictures, a checkpoint every epoch.
SLOW = {
    "embed": {"image_size": 384, "rows_per_shard": 8},
    "neighbors": {"rows_per_shard": 3},
    "heads": {"epochs": 300, "batch_size": 32, "checkpoint_epochs": 1},
}
# Ray's agents look for their cluster for a minute after it is gone; nothing else may outlive a driver.
AGENTS = ("ray::RuntimeEnvAgent", "ray::DashboardAgent")
FINISHED_PARTS = ("manifest", "features", "neighbors")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills") / "images"
    write_digits(folder, IMAGES)
    return folder


@pytest.fixture(scope="module")
def unbroken(source, tmp_path_factory):
    settings = tiny(source, tmp_path_factory.mktemp("unbroken") / "run", **SLOW)
    pipeline.run(settings, verbose=False)
    return Store(settings.out)


@pytest.fixture
def agents():
    """Processes that the test must not leave behind."""
    found = {}
    yield found
    for pid in left_of(found):
        os.kill(pid, signal.SIGKILL)


def processes():
    """{pid: (parent, session, time of its start)} of all that run; a zombie does not."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[0] != "Z":
            found[int(folder.name)] = (int(fields[1]), int(fields[3]), int(fields[19]))
    return found


def of_session(leader):
    """{pid: time of its start} of a session: a driver and all of its Ray."""
    return {pid: started for pid, (_, session, started) in processes().items() if session == leader}


def descendants(leader):
    """Processes below one, itself included."""
    found, below, more = processes(), {leader}, True
    while more:
        more = {pid for pid, (parent, _, _) in found.items() if parent in below} - below
        below |= more
    return below


def left_of(earlier):
    """Those of some {pid: time of its start} that still run."""
    now = processes()
    return [pid for pid, started in earlier.items() if pid in now and now[pid][2] == started]


def name_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:  # it has ended
        return ""


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {PATIENCE} s"
        time.sleep(POLL)


class Driver:
    """`icce run` in a process group and with a Ray cluster of its own."""

    def __init__(self, settings, folder, agents):
        self.agents = agents
        config = settings.model_dump(mode="json", exclude={"source", "out", "clusters", "seed"})
        (folder / "settings.yaml").write_text(yaml.safe_dump(config))
        self.log = folder / "log.txt"
        command = [Path(sys.executable).with_name("icce"), "run", settings.source, "--out", settings.out]
        options = ["--clusters", str(settings.clusters), "--config", str(folder / "settings.yaml")]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def kill_when(self, condition, what):
        """Kill the driver the moment something happens; its cluster must go with it."""

        def happened():
            assert self.process.poll() is None, f"the driver ended before {what}:\n{self.log.read_text()}"
            return condition()

        try:
            wait_for(happened, what)
        finally:
            self.process.kill()
            theirs = of_session(self.process.pid)
            self.agents |= {pid: theirs.pop(pid) for pid in list(theirs) if name_of(pid).startswith(AGENTS)}
            self.process.wait()
        assert len(theirs) > 1  # Ray's own and workers, still there for a moment: else nothing was tested
        wait_for(lambda: not left_of(theirs), f"the end of the killed driver's processes {theirs}")

    def finish(self):
        assert self.process.wait(timeout=PATIENCE) == 0, self.log.read_text()


def stamps(run):
    files = [path for name in FINISHED_PARTS for path in (run / name).rglob("part-*.parquet")]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def epoch_of(checkpoint):
    """Epoch of the heads' checkpoint, 0 if there is none."""
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, "pt") as file:
        return int(file.get_tensor("epoch"))


def parts(run, artifact):
    return len(list((run / artifact).glob("part-*.parquet")))


def rows(store, artifact):
    paths = sorted((Path(store.root) / artifact).glob("part-*.parquet"))
    return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


def assert_as_if_unbroken(store, unbroken):
    for artifact in ("consensus", "predictions", "head_labels"):
        assert rows(store, artifact) == rows(unbroken, artifact)
    for artifact in ("features/status=ok", "neighbors", "consensus", "predictions"):
        assert [row["image_id"] for row in rows(store, artifact)] == list(range(IMAGES))
    assert list(violations(store)) == []


def test_one_run_killed_in_four_stages(source, unbroken, tmp_path, agents):
    settings = tiny(source, tmp_path / "run", **SLOW)
    run = Path(settings.out)
    checkpoint, candidates = run / "heads/checkpoint.safetensors", run / "consensus/candidates"
    kept = {}

    Driver(settings, tmp_path, agents).kill_when(
        lambda: parts(run, "features/status=ok") > 0, "the first shard of features"
    )
    done = parts(run, "features/status=ok")
    assert 0 < done < IMAGES // SLOW["embed"]["rows_per_shard"]
    kept |= stamps(run)

    Driver(settings, tmp_path, agents).kill_when(lambda: parts(run, "neighbors") > 0, "the first shard of neighbours")
    assert not (run / "neighbors/_manifest.json").exists()
    kept |= stamps(run)

    Driver(settings, tmp_path, agents).kill_when(lambda: epoch_of(checkpoint) >= 10, "epoch 10")
    assert not (run / "heads/_manifest.json").exists()
    kept |= stamps(run)

    driver, reached, seen = Driver(settings, tmp_path, agents), epoch_of(checkpoint), []

    def a_candidate():
        if not seen and epoch_of(checkpoint) not in (0, reached):
            seen.append(epoch_of(checkpoint))
        return candidates.is_dir() and any(candidates.iterdir())

    driver.kill_when(a_candidate, "the first candidate of the consensus")
    assert seen[0] > reached >= 10  # it went on from the checkpoint: from the start it would have been at epoch 1
    assert not (run / "consensus/_manifest.json").exists()

    Driver(settings, tmp_path, agents).finish()
    assert stamps(run) | kept == stamps(run)
    text = (tmp_path / "log.txt").read_text()
    assert f"{done * SLOW['embed']['rows_per_shard']} of {IMAGES} images were done before" in text
    assert_as_if_unbroken(Store(settings.out), unbroken)


def test_a_killed_worker_is_replaced(source, unbroken, tmp_path):
    settings, killed = tiny(source, tmp_path / "run", **SLOW), []

    def kill_the_embedder():
        wait_for(lambda: parts(Path(settings.out), "features/status=ok") > 0, "the first shard of features")
        for pid in descendants(os.getpid()):
            if name_of(pid).startswith("ray::") and "_Embedder" in name_of(pid):
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_the_embedder)
    killer.start()
    pipeline.run(settings, last="embed", verbose=False)
    killer.join()
    assert killed
    store = Store(settings.out)
    assert rows(store, "features/status=ok") == rows(unbroken, "features/status=ok")
    assert list(violations(store)) == []
