"""Jobs as a user submits them: to a cluster with a job server and a token, which alone has the keys of the bucket."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from icce_ray.store import Store
from icce_ray.store.verify import violations
from tests.barriers import barrier
from tests.processes import PATIENCE, descendants, end, left_of, started, wait_for

from .conftest import write_digits

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
SETTINGS = """
embed: {backbone: hog, features: hog, rows_per_shard: 40}
neighbors: {threshold: 0.6, k_min: 5}
heads: {heads: 3, hidden: 32, bottleneck: 16, epochs: 20, warmup_epochs: 1, batch_size: 40, teacher_momentum: 0.9}
classifier: {iterations: 50, batch_size: 40}
"""
pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes"),
    pytest.mark.slow(25),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class JobServer:
    """`ray start --head` with its job server, a token and ports of its own."""

    def __init__(self, folder):
        self.address = f"http://127.0.0.1:{(port := free_port())}"
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        command = ["start", "--head", "--block", "--include-dashboard=true", "--dashboard-host=127.0.0.1"]
        where = [f"--port={free_port()}", f"--dashboard-port={port}", f"--temp-dir={folder}"]
        size = ["--num-cpus=4", "--object-store-memory=200000000", "--disable-usage-stats"]
        ports = [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        self.log, self.shells = Path(folder) / "log.txt", []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [RAY, *command, *where, *size, *ports],
                stdout=log,
                stderr=log,
                env=self.environment(
                    RAY_TMPDIR=str(folder), PATH=f"{Path(RAY).parent}:{os.environ['PATH']}"
                ),  # a job's `python` is the node's
                start_new_session=True,
            )
        wait_for(self._answers, "a job server that answers", poll=0.2)

    def environment(self, **more):
        """That of tests, with the token of this cluster instead of another's."""
        kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")}
        return kept | self.token | more

    def client(self):
        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {self.token['RAY_AUTH_TOKEN']}"})

    def _answers(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client().list_jobs() == []
        except (ConnectionError, RuntimeError):  # nobody listens yet, or its agent does not
            return False

    def submit(self, *words):
        """`ray job submit` in a shell that has no key of any bucket; its output is read line by line."""
        bare = {name: value for name, value in self.environment().items() if not name.startswith("AWS_")}
        shell = subprocess.Popen(
            [RAY, "job", "submit", "--address", self.address, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=bare,
            cwd=ROOT,
        )
        self.shells.append(shell)
        return shell

    def outcome(self, *words):
        """(exit status, output) of a submission that is waited for."""
        submitted = self.submit(*words)
        text, _ = submitted.communicate(timeout=PATIENCE)
        return submitted.returncode, text

    def close(self):
        """Kill exactly what was started; at SIGTERM Ray would first drain its node for half a minute."""
        for shell in self.shells:  # a test that failed has not waited for its own
            with shell:
                shell.kill()
        theirs = started(descendants(self.process.pid))
        end(theirs)
        self.process.wait()
        wait_for(lambda: not left_of(theirs), "the end of the job server")


@pytest.fixture(scope="module")
def server(cluster):
    with tempfile.TemporaryDirectory(prefix="icce-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        found = JobServer(folder)
        yield found
        found.close()


@pytest.fixture(scope="module")
def bucket(bucket_server, tmp_path_factory):
    """(server of a bucket, URI of a source of 120 digits there, file of settings); Ceph's where it is installed."""
    folder = tmp_path_factory.mktemp("jobs")
    write_digits(folder / "digits", 120)
    name = bucket_server.filled(folder / "digits")
    (folder / "settings.yaml").write_text(SETTINGS)
    return bucket_server, name, folder / "settings.yaml"


def test_a_job_outlives_the_shell_that_submitted_it(server, bucket):
    store, name, settings = bucket
    source, out = store.uri(f"{name}/in"), store.uri(f"{name}/run")
    options = (source, "-k", 10, "--out", out, "--config", settings)
    seen = []
    with barrier(Store(out), "neighbors/part-*"):
        submitted = server.submit("--working-dir", ".", "--", "python", "jobs/run.py", *options)
        for line in submitted.stdout:
            seen.append(line)
            if "embed  done" in line:
                break
        assert any("120 images (files)" in line for line in seen), "".join(seen)
        [job] = server.client().list_jobs()
        assert job.status == "RUNNING"  # so lines came while it ran, not after it
        with submitted:
            submitted.kill()
    wait_for(lambda: server.client().get_job_status(job.submission_id).is_terminal(), "the end of the job", poll=0.5)
    log = server.client().get_job_logs(job.submission_id)
    assert server.client().get_job_status(job.submission_id) == "SUCCEEDED", log
    assert list(violations(Store(out))) == []
    stages = ("list", "embed", "neighbors", "heads", "consensus", "classifier", "predict")
    assert [stage for stage in stages if f"{stage}  done in" not in log] == []
    assert len(log.splitlines()) < 80
    assert "[A" not in log.replace("\x1b", "")  # no cursor moves back: plain lines

    status, text = server.outcome("--working-dir", ".", "--", "python", "jobs/run.py", *options)
    assert (status, "nothing to do" in text) == (0, True), text


def test_a_job_that_fails_says_with_what_status_and_why(server, bucket):
    store, name, settings = bucket
    for index in range(8):
        store.client.put_object(Bucket=name, Key=f"broken/{index}.png", Body=b"no image" * 20)
        store.client.copy_object(Bucket=name, Key=f"broken/1{index}.png", CopySource=f"{name}/in/000{index}.png")
    options = (store.uri(f"{name}/broken"), "--out", store.uri(f"{name}/broken-run"), "--config", settings)
    # Without a working dir: from what is installed.
    status, text = server.outcome("--", "python", ROOT / "jobs/embed.py", *options, "-k", 2, "--set", "heads.epoch=3")
    assert (status, "did you mean heads.epochs?" in text, "exit status 2: the command line" in text) == (1, True, True)
    assert not store.client.list_objects_v2(Bucket=name, Prefix="broken-run").get("Contents")
    status, text = server.outcome("--working-dir", ".", "--", "python", "jobs/embed.py", *options, "-k", 2)
    assert (status, "8 of 16 inputs (50.0%) were rejected" in text) == (1, True), text
    assert "exit status 3: every stage is done, but more inputs were rejected" in text
    assert server.client().list_jobs()[0].status in ("FAILED", "SUCCEEDED")
    failed = [job for job in server.client().list_jobs() if "jobs/embed.py" in job.entrypoint]
    assert sorted(job.driver_exit_code for job in failed) == [2, 3]


def test_a_submission_from_python(server, tmp_path):
    """jobs/examples/cluster.py: the log comes over, and its exit status says how the job ended."""
    words = [sys.executable, "jobs/examples/cluster.py", server.address, tmp_path, "-k", "1", "--out", tmp_path / "run"]
    environment = server.environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, "clusters = 1: give at least 2" in done.stdout) == (1, True), done.stdout + done.stderr
    assert "exit status 2: the command line or the settings are wrong" in done.stdout
