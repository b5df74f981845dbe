"""Compare-and-swap: of any number of writers exactly one wins, on a disk, on S3 and elsewhere."""

import os
import subprocess
import sys
import threading
import time
import uuid

import pytest

from icce_ray.io import conditional
from icce_ray.io.conditional import current, remove, swap
from icce_ray.io.storage import StorageError
from tests.failures import fails

CONTENDERS = 16


@pytest.fixture
def local(tmp_path):
    return str(tmp_path / "some" / "where" / "file.json")


@pytest.fixture
def in_memory(monkeypatch):
    monkeypatch.setattr(conditional, "SETTLE", 0.3)
    return f"fsspec+memory://{uuid.uuid4().hex}/run/file.json"


def in_new_bucket(server):
    return server.uri(f"{server.bucket()}/run/file.json")


@pytest.fixture
def on_moto(moto):
    return in_new_bucket(moto)


@pytest.fixture
def on_radosgw(radosgw):
    return in_new_bucket(radosgw)


@pytest.fixture(params=["local", "on_radosgw", "in_memory"])
def uri(request):
    return request.getfixturevalue(request.param)


def race(contest):
    """What each of 16 threads got, all let loose at once."""
    got, start = [], threading.Barrier(CONTENDERS)

    def contend(number):
        start.wait()
        got.append(contest(number))

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(CONTENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == CONTENDERS
    return got


def test_only_the_expected_version_is_replaced_or_removed(uri):
    assert current(uri) is None
    first = swap(uri, b"first", None)
    assert current(uri) == (b"first", first)
    assert swap(uri, b"other", None) is None
    second = swap(uri, b"second", first)
    assert second is not None
    assert second != first
    assert swap(uri, b"third", first) is None
    assert not remove(uri, first)
    assert current(uri) == (b"second", second)
    assert remove(uri, second)
    assert current(uri) is None
    assert not remove(uri, second)
    assert swap(uri, b"third", second) is None
    assert current(uri) is None


@pytest.mark.parametrize("there", [False, True])
def test_one_of_many_writes(uri, there):
    before = swap(uri, b"first", None) if there else None
    got = race(lambda number: (number, swap(uri, b"%d" % number, before)))
    winners = [(number, version) for number, version in got if version is not None]
    assert len(winners) == 1
    number, version = winners[0]
    assert current(uri) == (b"%d" % number, version)


@pytest.mark.parametrize("place", ["local", "on_radosgw"])
def test_nothing_is_lost_between_writers_that_try_again(place, request):
    uri, rounds = request.getfixturevalue(place), 2

    def count(number):
        done = 0
        while done < rounds:
            found = current(uri)
            total, version = (int(found[0].split()[0]), found[1]) if found else (0, None)
            # Unique contents: else a writer whose request was sent twice takes another's for its own.
            done += swap(uri, b"%d %d %d" % (total + 1, number, done), version) is not None

    race(count)
    assert int(current(uri)[0].split()[0]) == rounds * CONTENDERS


# -- local disk ----------------------------------------------------------------------------------------------------

#: Holds the guard and waits to be killed.
HOLD = """
import sys
from icce_ray.io.conditional import _guarded
from icce_ray.io.stores import resolve
with _guarded(*resolve(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_nothing_but_the_file_is_left(local):
    folder = os.path.dirname(local)
    version = swap(local, b"first", None)
    assert swap(local, b"x", "no version") is None
    assert remove(local, version)
    assert os.listdir(folder) == []
    assert swap(local, b"x", version) is None  # there is none to replace
    assert os.listdir(folder) == []
    assert swap(local, b"x" * 10, None) is not None
    assert [name for name in os.listdir(folder) if not name.startswith(".")] == ["file.json"]


def test_a_killed_writer_leaves_the_guard_free(local):
    os.makedirs(os.path.dirname(local))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, local], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        got = []
        waiting = threading.Thread(target=lambda: got.append(swap(local, b"mine", None)))
        waiting.start()
        time.sleep(0.2)
        assert not got  # it waits for the one that holds the guard
        process.kill()
        waiting.join(10)
    assert current(local) == (b"mine", got[0])


def test_a_place_where_no_file_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with fails(StorageError, tmp_path / "file", "where you may create files"):
        swap(str(tmp_path / "file" / "file.json"), b"x", None)
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o555)
    everything = os.geteuid() == 0  # permissions do not hold root up
    if everything:
        os.seteuid(65534)
    try:
        with fails(StorageError, folder, "Permission denied", "where you may create files"):
            swap(str(folder / "file.json"), b"x", None)
    finally:
        if everything:
            os.seteuid(0)
