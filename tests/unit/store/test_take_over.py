"""A lock that is taken over, damaged, or left by a process that was killed: both sides learn of it."""

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from icce_ray.io.storage import Storage, StorageError
from icce_ray.store import RunError
from icce_ray.store.lock import LOCK_FILE, WORKERS_END, Holder, RunLock, holder_of
from tests.failures import fails
from tests.locks import files, on_another_machine
from tests.processes import PATIENCE, wait_for


@pytest.mark.parametrize("where", ["foreground", "background"])
def test_the_first_stops_when_it_is_taken_over(shared_root, holding, where):
    process, said = holding(shared_root, where=where), []
    assert process.stdout.readline() == "held\n"
    with RunLock(shared_root, take_over=True, log=said.append, command="icce predict") as lock:
        last = process.stdout.readline()  # it was waiting for something else and is interrupted
        assert process.wait(PATIENCE) == 0
        assert f"was taken from this process by pid {os.getpid()} on" in last
        assert "`icce predict`" in last
        lock.check()  # its end has not taken away what is ours now
    assert len(said) == 1
    assert f"held by pid {process.pid} on" in said[0]
    assert "--take-over ends: taken over" in said[0]
    assert files(shared_root) == []


def test_what_a_killed_writer_left_is_swept(local, holding):
    process = holding(local)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    for folder, name in (("", ".0123456789abcdef0123456789abcdef.tmp"), ("features", f".{'f' * 32}.tmp")):
        (Path(local) / folder).mkdir(exist_ok=True)
        (Path(local) / folder / name).write_bytes(b"half of a shard")
    (Path(local) / ".notes.tmp").write_bytes(b"somebody's own")
    with RunLock(local):
        assert [path.name for path in Path(local).rglob("*.tmp") if "guard" not in path.name] == [".notes.tmp"]


def test_the_first_learns_of_it_at_its_next_check(root):
    with RunLock(root) as first:
        first.check()
        with RunLock(root, take_over=True) as second:
            for _ in range(2):
                with fails(RunError, f"pid {os.getpid()}"):
                    first.check()
            second.check()
        assert files(root) == []
    with RunLock(root) as first:
        with RunLock(root, take_over=True):
            pass  # and has ended
        with fails(RunError, LOCK_FILE, "same command again"):
            first.check()


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (b"", "not JSON"),
        (b"[]", "the whole = []"),
        (b'"' + b"x" * 100_000 + b'"', "65,536 bytes"),
        (b"{}", "token is missing"),
        ({"process": 1}, "process = 1"),
        ({"colour": 1}, "colour = 1"),
        ({"renewed": "2026-01-01T00:00:00"}, "zone"),
        *(({"pid": pid}, "process") for pid in (0, 2**31, "first")),
        *(({"since_boot": since}, "process") for since in (-1.0, float("nan"))),
        ({"boot_id": 7}, "boot_id = 7"),
    ],
)
def test_a_damaged_lock_is_named_and_needs_a_decision(local, damage, fact):
    data = damage
    if isinstance(damage, dict):
        content = dataclasses.asdict(Holder.new("icce run"))
        inner = content["process"]
        data = json.dumps(content | {"process": inner | damage} if damage.keys() <= inner.keys() else content | damage)
    Storage(local).write_bytes(LOCK_FILE, data if isinstance(data, bytes) else data.encode())
    for ask in (lambda: holder_of(local), lambda: RunLock(local).__enter__()):
        with fails(RunError, LOCK_FILE, fact, "--take-over") as caught:
            ask()
        assert len(str(caught.value)) < 500
    with RunLock(local, take_over=True) as lock:
        lock.check()


@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder"])
def test_what_is_no_file_in_its_place_is_not_opened(local, what):
    path = Path(local) / LOCK_FILE
    path.parent.mkdir(parents=True)
    {"a pipe": os.mkfifo, "a device": lambda path: path.symlink_to("/dev/zero"), "a folder": Path.mkdir}[what](path)
    for ask in (lambda: holder_of(local), lambda: RunLock(local, take_over=True).__enter__()):
        with fails(StorageError, path, what, "remove it"):
            ask()


def test_uploads_of_the_former_holder_are_aborted(s3_server):
    bucket = s3_server.bucket()
    root = s3_server.uri(f"{bucket}/run")

    def uploads():
        return [item["Key"] for item in s3_server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())]

    for key in ("run/heads/part", "run2/part"):
        s3_server.client.create_multipart_upload(Bucket=bucket, Key=key)
    with RunLock(root):
        assert len(uploads()) == 2  # nobody was here before: not ours to judge
    on_another_machine(root)
    with RunLock(root, take_over=True):
        assert uploads() == ["run2/part"]


def test_a_thread_of_its_own_is_not_interrupted(local):
    raised = []

    def hold():
        try:
            with RunLock(local, renew_every=0.05) as lock:
                ready.set()
                taken.wait(PATIENCE)
                wait_for(lock.check, "the loss of the lock")
        except RunError as error:
            raised.append(str(error))

    ready, taken = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(PATIENCE)
    with RunLock(local, take_over=True):
        taken.set()
        thread.join()
    assert "was taken from this process" in raised[0]


def test_an_interrupt_of_the_person_stays_one(local, holding):
    process = holding(local)
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE)
    assert process.returncode != 0
    assert process.stdout.read() == ""
    assert files(local) == []


def test_a_killed_run_is_taken_over(shared_root, holding):
    process, said = holding(shared_root), []
    assert process.stdout.readline() == "held\n"
    process.kill()  # not waited for: a zombie is dead too
    wait_for(holder_of(shared_root).process.has_ended, "the holder's end")
    with RunLock(shared_root, log=said.append) as lock:
        assert lock.settle == WORKERS_END
        lock.check()
    assert len(said) == 1
    assert f"left by pid {process.pid} on" in said[0]
    assert said[0].endswith("which is dead: taken over")
    assert files(shared_root) == []
