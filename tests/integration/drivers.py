"""`icce run` in a process of its own, killed the moment something happens, and what a run must look like after it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from icce_ray.stages.verify import violations

POLL, PATIENCE = 0.004, 120
# Ray's agents look for their cluster for a minute after it is gone; nothing else may outlive a driver.
AGENTS = ("ray::RuntimeEnvAgent", "ray::DashboardAgent")


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


def wait_for(condition, what, poll=POLL):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {PATIENCE} s"
        time.sleep(poll)


class Driver:
    """`icce run` in a process group and with a Ray cluster of its own, or with one that is there."""

    def __init__(self, settings, folder, agents, cluster=None):
        self.agents = agents
        config = settings.model_dump(mode="json", exclude={"source", "out", "clusters", "seed"})
        (folder / "settings.yaml").write_text(yaml.safe_dump(config))
        self.log = folder / "log.txt"
        command = [Path(sys.executable).with_name("icce"), "run", settings.source, "--out", settings.out]
        options = ["--clusters", str(settings.clusters), "--config", str(folder / "settings.yaml")]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= cluster or {}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def kill_when(self, condition, what, poll=POLL):
        """Kill the driver the moment something happens; False if it ended before that was seen.

        A cluster of its own must go with it.
        """

        def happened():
            if self.process.poll() is None:
                return condition()
            assert condition(), f"the driver ended before {what}:\n{self.log.read_text()}"
            return True

        try:
            wait_for(happened, what, poll)
        finally:
            self.process.kill()
            theirs = of_session(self.process.pid)
            self.agents |= {pid: theirs.pop(pid) for pid in list(theirs) if name_of(pid).startswith(AGENTS)}
            self.process.wait()
        wait_for(lambda: not left_of(theirs), f"the end of the killed driver's processes {theirs}")
        return self.process.returncode == -signal.SIGKILL

    def finish(self):
        assert self.process.wait(timeout=PATIENCE) == 0, self.log.read_text()


def end(agents):
    """End what a killed driver's cluster left running."""
    for pid in left_of(agents):
        os.kill(pid, signal.SIGKILL)


def rows(store, artifact):
    """All rows of an artifact's shards, in the order of their names."""
    paths = [name for name, _ in store.storage.list(artifact) if "/part-" in name]
    return [row for path in paths for row in store.storage.read_table(path).to_pylist()]


def assert_as_if_unbroken(store, unbroken, images):
    """Every image once, the labels of an unbroken run, and nothing for `verify` to find."""
    for artifact in ("consensus", "predictions", "head_labels"):
        assert rows(store, artifact) == rows(unbroken, artifact)
    for artifact in ("manifest", "features/status=ok", "neighbors", "consensus", "predictions"):
        assert [row["image_id"] for row in rows(store, artifact)] == list(range(images))
    assert list(violations(store)) == []
