"""The lock of a run: one holder, shown to all others; what a dead one leaves is taken over, and nothing earlier."""

import dataclasses
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from icce_ray.io import conditional
from icce_ray.io.storage import Storage, StorageError
from icce_ray.store import RunError
from icce_ray.store.lock import EXPIRY, LOCK_FILE, WORKERS_END, Holder, RunLock, holder_of
from tests.failures import fails
from tests.processes import PATIENCE, wait_for
from tests.servers.radosgw import read_only
from tests.servers.s3 import forget_clients

CONTENDERS = 8
#: Seconds; both shortened so that tests need not wait.
QUICK = {"renew_every": 0.1, "expiry": 0.6}

#: Holds the lock of a run until it is killed, its standard input ends, or the lock is lost.
HOLD = """
import signal, sys
# A shell has commands in the background ignore Ctrl-C; whoever runs these tests may be one.
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[3] == "background" else signal.default_int_handler)
from icce_ray.store.lock import RunLock
from icce_ray.store import RunError
try:
    with RunLock(sys.argv[1], renew_every=float(sys.argv[2])):
        print("held", flush=True)
        sys.stdin.read()
except RunError as error:
    print(error, flush=True)
"""


@pytest.fixture
def local(tmp_path):
    return str(tmp_path / "runs" / "run")


@pytest.fixture
def on_moto(moto):
    return moto.uri(f"{moto.bucket()}/run")


@pytest.fixture
def on_radosgw(radosgw):
    return radosgw.uri(f"{radosgw.bucket()}/run")


@pytest.fixture
def in_memory(monkeypatch):
    monkeypatch.setattr(conditional, "SETTLE", 0.3)
    return f"fsspec+memory://{uuid.uuid4().hex}/run"


ON_RADOSGW = pytest.param("on_radosgw", marks=pytest.mark.slow(2))


@pytest.fixture(params=["local", "on_moto", ON_RADOSGW, "in_memory"])
def root(request):
    """A run that is not there yet, on every kind of store."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["local", "on_moto", ON_RADOSGW])
def shared_root(request):
    """The same where other processes see it."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def holding():
    """Starts processes that hold a run."""
    started = []

    def hold(root, renew_every=0.2, where="foreground"):
        command = [sys.executable, "-c", HOLD, root, str(renew_every), where]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def files(root):
    return [name for name, _ in Storage(root).list()]


def on_another_machine(root, *, silent=0.0):
    """A lock that says another machine wrote it, some seconds ago; whether its process lives cannot be known."""
    earlier = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=silent)
    holder = Holder.new("icce run")
    process = dataclasses.replace(holder.process, host="elsewhere", boot_id="another")
    holder = dataclasses.replace(holder, process=process, renewed=earlier.isoformat())
    assert conditional.swap(Storage(root).uri(LOCK_FILE), holder.data(), None) is not None
    return holder


# -- one holder ----------------------------------------------------------------------------------------------------


def test_the_second_is_told_who_the_first_is(root):
    with RunLock(root, command="icce predict"):
        facts = [RunLock(root).root, f"pid {os.getpid()}", os.uname().nodename, "`icce predict`", "--take-over"]
        with fails(RunError, *facts, holder_of(root).started) as caught, RunLock(root):
            pass
    assert re.search(r"expires in (8\d|90) s", str(caught.value))


def test_nothing_is_left_at_the_end(root):
    with RunLock(root) as lock:
        lock.check()
        assert files(root) == [LOCK_FILE]
    assert files(root) == []
    assert holder_of(root) is None
    with RunLock(root) as lock:
        assert lock.taken_from is None
        assert lock.settle == 0.0


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_gives_it_back_and_passes(local, kind):
    with pytest.raises(kind, match="mine"), RunLock(local):
        raise kind("mine")
    assert files(local) == []


@pytest.mark.parametrize("expired", [False, True])
@pytest.mark.parametrize("where", ["local", "on_moto", "on_radosgw", "in_memory"])
def test_one_of_many_threads_gets_it(where, expired, request, monkeypatch):
    root = request.getfixturevalue(where)
    if expired:
        on_another_machine(root, silent=100)
    # Each looks once whether the former holder lives; how long it looks is another test's.
    monkeypatch.setattr(RunLock, "_stays", lambda self, version: conditional.current(self._uri)[1] == version)
    got, refused, end = [], [], threading.Event()

    def contend():
        try:
            with RunLock(root) as lock:
                got.append(lock)
                end.wait(30)
        except RunError as error:
            refused.append(str(error))
        if len(refused) == CONTENDERS - 1:
            end.set()

    threads = [threading.Thread(target=contend) for _ in range(CONTENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert [text for text in refused if f"pid {os.getpid()}" not in text] == []
    assert files(root) == []


def test_one_of_many_processes_gets_it(shared_root, holding):
    processes = [holding(shared_root) for _ in range(2)]
    lines = [process.stdout.readline() for process in processes]
    winner = processes[lines.index("held\n")]
    assert sum(line == "held\n" for line in lines) == 1
    assert all(f"pid {winner.pid} " in line for line in lines if line != "held\n")
    winner.communicate()
    assert winner.returncode == 0
    assert files(shared_root) == []


def test_the_lock_shows_no_arguments(local, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mine.py", "--password", "s3cret"])
    with RunLock(local):
        content = json.loads(Storage(local).read_bytes(LOCK_FILE))
    assert "s3cret" not in json.dumps(content)
    assert set(content) == {"token", "command", "process", "started", "renewed", "renewals"}


# -- what a dead one leaves ----------------------------------------------------------------------------------------


def test_a_killed_run_is_taken_over(shared_root, holding):
    process, said = holding(shared_root), []
    assert process.stdout.readline() == "held\n"
    process.kill()  # not waited for: a zombie is dead too
    wait_for(holder_of(shared_root).process.has_ended, "the holder's end")
    with RunLock(shared_root, say=said.append) as lock:
        assert lock.taken_from.process.pid == process.pid
        assert lock.settle == WORKERS_END
        lock.check()
    assert len(said) == 1
    assert f"left by pid {process.pid} on" in said[0]
    assert said[0].endswith("which is dead: taken over")
    assert files(shared_root) == []


def test_a_later_process_of_the_same_number_is_not_the_holder(local):
    holder = Holder.new("icce run")
    assert not holder.process.has_ended()
    earlier = dataclasses.replace(holder.process, since_boot=holder.process.since_boot - 10)
    assert earlier.has_ended()


@pytest.mark.parametrize("change", [{"boot_id": None}, {"boot_id": "x"}, {"host": "x"}, {"pid_namespace": "x"}])
def test_of_other_machines_and_containers_nothing_is_known(change):
    dead = dataclasses.replace(Holder.new("icce run").process, pid=2**22 + 1)
    assert dead.has_ended()
    assert not dataclasses.replace(dead, **change).has_ended()


def test_one_that_may_live_is_not_waited_for(root, monkeypatch):
    holder = on_another_machine(root, silent=30)
    monkeypatch.setattr(RunLock, "_stays", lambda *_: pytest.fail("it waits"))
    with fails(RunError, "elsewhere", " s ago", "--take-over"), RunLock(root):
        pass
    assert holder_of(root) == holder


def test_one_whose_last_sign_is_to_come_is_watched_as_an_expired_one(local):
    """A clock that was wrong once: nobody has to wait until 2099."""
    holder, said = on_another_machine(local, silent=-1e9), []
    assert "still to come" in holder.state()
    with RunLock(local, say=said.append, **QUICK) as lock:
        assert lock.taken_from == holder
    assert holder.renewed in said[0]
    assert "--take-over" in said[0]
    assert Holder.new("icce run").silent_for() < 60 < EXPIRY


class Clock:
    """Time passes by `sleep` alone, at once."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_one_without_a_sign_of_life_expires(root, monkeypatch):
    monkeypatch.setattr("icce_ray.store.lock.time", clock := Clock())
    holder, said = on_another_machine(root, silent=100), []
    with RunLock(root, say=said.append) as lock:
        assert clock.now - 1000 >= EXPIRY
        assert lock.taken_from == holder
        assert holder_of(root).process.pid == os.getpid()
    assert f"looking for {EXPIRY:.0f} s" in said[0]
    assert "taken over" in said[1]


def test_a_clock_that_is_wrong_ends_nobodys_run(root, monkeypatch):
    monkeypatch.setattr(Holder, "silent_for", lambda self: 1000.0)
    with RunLock(root, renew_every=0.05) as first:
        said = []
        monkeypatch.setattr("icce_ray.store.lock._ATTEMPTS", 2)
        with fails(RunError, "2 times"), RunLock(root, say=said.append, renew_every=0.05):
            pass  # it looks until the first renews
        assert "looking for" in said[0]
        first.check()


# -- taking over ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["foreground", "background"])
def test_the_first_stops_when_it_is_taken_over(shared_root, holding, where):
    process, said = holding(shared_root, where=where), []
    assert process.stdout.readline() == "held\n"
    with RunLock(shared_root, take_over=True, say=said.append, command="icce predict") as lock:
        last = process.stdout.readline()  # it was waiting for something else and is interrupted
        assert process.wait(PATIENCE) == 0
        assert f"was taken from this process by pid {os.getpid()} on" in last
        assert "`icce predict`" in last
        assert lock.taken_from.process.pid == process.pid
        lock.check()  # its end has not taken away what is ours now
    assert len(said) == 1
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
        first.check(at_most=60)
        with RunLock(root, take_over=True) as second:
            first.check(at_most=60)  # nothing is asked
            for at_most in (0, 60):
                with fails(RunError, f"pid {os.getpid()}"):
                    first.check(at_most)
            second.check()
        assert files(root) == []


def test_the_first_stops_even_if_the_second_has_ended(root):
    with RunLock(root) as first:
        with RunLock(root, take_over=True):
            pass
        with fails(RunError, LOCK_FILE, "same command again"):
            first.check()


def test_a_damaged_lock_needs_a_decision(root):
    uri = Storage(root).uri(LOCK_FILE)
    assert conditional.swap(uri, b'{"token": "x"}', None) is not None
    for ask in (lambda: RunLock(root).__enter__(), lambda: holder_of(root)):
        with fails(RunError, uri, "missing", "--take-over"):
            ask()
    with RunLock(root, take_over=True) as lock:
        lock.check()


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "the whole = []"),
        (b"null", "the whole = None"),
        (b"{}", "token is missing"),
        (b"[" * 50_000, "deep"),
        (b'"' + b"x" * 100_000 + b'"', "65,536 bytes"),
        (b"1" * 5_000, "2^63"),
        ({"process": 1}, "process = 1"),
        ({"colour": 1}, "colour = 1"),
        ({"renewed": "2026-01-01T00:00:00"}, "zone"),
        ({"started": "yesterday"}, "started = 'yesterday'"),
        ({"renewed": "0001-01-01T00:00:00+14:00"}, "zone since 1970"),
        ({"renewals": "many"}, "renewals = 'many'"),
        *(({"pid": pid}, "process") for pid in (-1, 0, 2**31, "first", None)),
        *(({"since_boot": since}, "process") for since in (-1.0, float("nan"), "long")),
        ({"boot_id": 7}, "boot_id = 7"),
        ({"host": None}, "host = None"),
    ],
)
def test_damage_of_every_kind_is_named(local, damage, fact):
    data = damage
    if isinstance(damage, dict):
        content = dataclasses.asdict(Holder.new("icce run"))
        inner = content["process"]
        data = json.dumps(content | {"process": inner | damage} if damage.keys() <= inner.keys() else content | damage)
    Storage(local).write_bytes(LOCK_FILE, data if isinstance(data, bytes) else data.encode())
    with fails(RunError, LOCK_FILE, fact, "--take-over") as caught:
        holder_of(local)
    assert len(str(caught.value)) < 500


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
    for key in ("run/heads/part", "run2/part"):
        s3_server.client.create_multipart_upload(Bucket=bucket, Key=key)
    with RunLock(root):
        assert len(uploads(s3_server, bucket)) == 2  # nobody was here before: not ours to judge
    on_another_machine(root)
    with RunLock(root, take_over=True):
        assert uploads(s3_server, bucket) == ["run2/part"]


def uploads(server, bucket):
    return [item["Key"] for item in server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())]


# -- signs of life -------------------------------------------------------------------------------------------------


def test_the_holder_gives_signs_of_life(root):
    with RunLock(root, renew_every=0.05):
        first = holder_of(root)
        wait_for(lambda: holder_of(root).renewals >= first.renewals + 2, "the second renewal")
        later = holder_of(root)
    assert dataclasses.replace(later, renewed=first.renewed, renewals=first.renewals) == first


def failing(monkeypatch, after=None):
    """Lets the store fail while the returned event is set, or after some writes."""
    down, swap, done = threading.Event(), conditional.swap, []

    def maybe(uri, data, version):
        if down.is_set() or len(done) == after:
            raise StorageError("the store is away")
        done.append(uri)
        return swap(uri, data, version)

    monkeypatch.setattr(conditional, "swap", maybe)
    return down


def test_a_store_that_fails_for_a_while_loses_no_lock(local, monkeypatch):
    down = failing(monkeypatch)
    with RunLock(local, renew_every=0.05) as lock:
        down.set()
        with fails(StorageError, "away"):
            lock.check()
        before = holder_of(local).renewals
        down.clear()
        wait_for(lambda: holder_of(local).renewals > before, "a renewal")
        lock.check()


def test_a_store_that_fails_for_longer_ends_the_run(local, monkeypatch):
    failing(monkeypatch, after=1)
    with fails(RunError, "the store is away", "same command again"), RunLock(local, **QUICK):
        threading.Event().wait(PATIENCE)  # ends by the lock's own interrupt


def test_an_answer_that_is_lost_loses_no_lock(root, monkeypatch):
    swap, lost = conditional.swap, []

    def arrives_unheard(uri, data, version):
        got = swap(uri, data, version)
        if len(lost) < 2 and got is not None:
            lost.append(got)
            if len(lost) == 2:
                raise StorageError("cut")
        return got

    monkeypatch.setattr(conditional, "swap", arrives_unheard)
    with RunLock(root) as lock:
        with fails(StorageError, "cut"):
            lock.check()
        lock.check()
        lock.check()
    assert files(root) == []


def test_a_thread_of_its_own_is_not_interrupted(local):
    raised = []

    def hold():
        try:
            with RunLock(local, renew_every=0.05) as lock:
                ready.set()
                taken.wait(PATIENCE)
                wait_for(lambda: lock.check(at_most=3600), "the loss of the lock")
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


# -- where nothing can be written ----------------------------------------------------------------------------------


def test_a_file_in_the_place_of_the_run_is_named(tmp_path):
    (tmp_path / "out").write_text("mine")
    with fails(StorageError, tmp_path / "out", "a place where you may create files"), RunLock(str(tmp_path / "out")):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_a_missing_bucket_is_named(s3_server):
    with fails(StorageError, "no such bucket", "nobody-made-this"), RunLock(s3_server.uri("nobody-made-this/run")):
        pass


@pytest.mark.slow(5)
def test_a_bucket_that_may_only_be_read_is_named(radosgw, monkeypatch):
    bucket, secret = radosgw.bucket(), "only-to-read"
    radosgw.gateway.add_user("looker", "lookerkey", secret)
    read_only(radosgw.client, bucket, "looker")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lookerkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    forget_clients()
    try:
        with fails(StorageError, bucket, "denied", "s3:PutObject") as caught:
            RunLock(radosgw.uri(f"{bucket}/run")).__enter__()
    finally:
        forget_clients()
    assert secret not in str(caught.value)
