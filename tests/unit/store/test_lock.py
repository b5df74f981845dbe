"""The lock of a run: one holder, shown to all others; what a dead one leaves is taken over, and nothing earlier."""

import dataclasses
import json
import os
import re
import sys
import threading

import pytest

from icce_ray.io import conditional
from icce_ray.io.storage import Storage, StorageError
from icce_ray.store import RunError
from icce_ray.store.lock import EXPIRY, LOCK_FILE, Holder, RunLock, holder_of
from tests.failures import fails
from tests.locks import Clock, files, on_another_machine
from tests.processes import PATIENCE, wait_for

CONTENDERS = 8
#: Seconds; both shortened so that tests need not wait.
QUICK = {"renew_every": 0.1, "expiry": 0.6}

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


def test_what_is_known_of_a_holders_end():
    process = Holder.new("icce run").process
    dead = dataclasses.replace(process, pid=2**22 + 1)
    earlier = dataclasses.replace(process, since_boot=process.since_boot - 10)  # of the same number
    assert [one.has_ended() for one in (process, earlier, dead)] == [False, True, True]
    for elsewhere in ({"boot_id": None}, {"boot_id": "x"}, {"host": "x"}, {"pid_namespace": "x"}):
        assert not dataclasses.replace(dead, **elsewhere).has_ended()


def test_one_whose_last_sign_is_to_come_is_watched_as_an_expired_one(local):
    """A clock that was wrong once: nobody has to wait until 2099."""
    holder, said = on_another_machine(local, silent=-1e9), []
    assert "still to come" in holder.state()
    with RunLock(local, log=said.append, **QUICK):
        assert str(holder) in said[0]
    assert holder.renewed in said[0]
    assert "--take-over" in said[0]
    assert Holder.new("icce run").silent_for() < 60 < EXPIRY


@pytest.mark.parametrize("silent", [30, 100])
def test_one_without_a_sign_of_life_expires(root, monkeypatch, silent):
    monkeypatch.setattr("icce_ray.store.lock.time", clock := Clock())
    holder, said = on_another_machine(root, silent=silent), []
    if silent < EXPIRY:  # it may live: it is not waited for
        with fails(RunError, "elsewhere", " s ago", "--take-over"), RunLock(root):
            pass
        assert (clock.now, holder_of(root)) == (1000, holder)
        return
    with RunLock(root, log=said.append):
        assert clock.now - 1000 >= EXPIRY
        assert str(holder) in said[0]
        assert holder_of(root).process.pid == os.getpid()
    assert f"looking for {EXPIRY:.0f} s" in said[0]
    assert "taken over" in said[1]


def test_a_clock_that_is_wrong_ends_nobodys_run(root, monkeypatch):
    monkeypatch.setattr(Holder, "silent_for", lambda self: 1000.0)
    with RunLock(root, renew_every=0.05) as first:
        said = []
        monkeypatch.setattr("icce_ray.store.lock._ATTEMPTS", 2)
        with fails(RunError, "2 times"), RunLock(root, log=said.append, renew_every=0.05):
            pass  # it looks until the first renews
        assert "looking for" in said[0]
        first.check()


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
