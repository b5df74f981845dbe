"""Keys of a bucket: all of them, once, in the order of their bytes, however they are laid out in prefixes."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from icce_ray.io.locations import StorageError
from icce_ray.io.s3 import S3Store
from icce_ray.io.sources.walk import keys_below
from icce_ray.io.stores import resolve
from tests.failures import fails

ODD = ["a", "a-b", "a.b", "a/b", "a/b/c", "a/b-c", "a0", "a b/#?%/é", "z/日本/1", "z/", "z/.hidden", "ü/ü", "A/a"]
LAYOUTS = {
    "nothing": [],
    "odd": ODD,
    "flat": [f"{index:05d}" for index in range(1100)],
    "a large folder among others": [*(f"big/{index:05d}" for index in range(1100)), *ODD, "zz"],
    "many folders": [f"{index:03d}/{part}" for index in range(40) for part in ("a", "b")],
    "deep": [f"{a}/{b}/{c}" for a, b, c in itertools.product("xyz", "12345", "pqr")],
}


@pytest.fixture(scope="module")
def filled(radosgw):
    """Every layout below a prefix of its own."""
    name = radosgw.bucket()
    names = [f"{layout}/{key}" for layout, keys in LAYOUTS.items() for key in keys]
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(
            lambda key: radosgw.client.put_object(Bucket=name, Key=key, Body=b"1" * (len(key) % 3)), names
        ):
            pass
    return lambda path="": radosgw.uri(name + quote(path))


def keys_of(uri):
    return keys_below(*resolve(uri))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["", "/"])
def test_keys_are_complete_and_in_order(filled, layout, ending):
    found = list(keys_of(filled(f"/{layout}{ending}")))
    expected = sorted(key for key in LAYOUTS[layout] if not key.endswith("/"))
    assert found == [(key, len(f"{layout}/{key}") % 3) for key in expected]
    assert [key for key, _ in found] == sorted((key for key, _ in found), key=str.encode)


def test_a_listing_that_is_left_leaves_no_thread(filled):
    keys = keys_of(filled())
    assert next(keys)
    keys.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("listing")]


def test_prefixes_are_shared_out(filled, monkeypatch):
    """Forty folders are listed by several threads, one large folder is one sequence of pages."""
    listed = []
    pages = S3Store.pages

    def recorded(store, path, **options):
        for page in pages(store, path, **options):
            listed.append((threading.current_thread().name, options))
            yield page

    monkeypatch.setattr(S3Store, "pages", recorded)
    assert len(list(keys_of(filled("/many folders")))) == 80
    flat = [thread for thread, options in listed if not options]
    assert len(flat) == 40
    assert len(set(flat)) > 4
    listed.clear()
    assert len(list(keys_of(filled("/flat")))) == 1100
    assert [options for _, options in listed] == [{"delimiter": "/"}] * 2 + [{}] * 2


def test_what_goes_wrong_reaches_the_reader(filled, monkeypatch):
    pages = S3Store.pages

    def failing(store, path, **options):
        if not options and "/017" in path:
            raise StorageError("no more")
        return pages(store, path, **options)

    monkeypatch.setattr(S3Store, "pages", failing)
    with fails(StorageError, "no more"):
        list(keys_of(filled("/many folders")))
