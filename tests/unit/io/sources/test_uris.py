"""Lists of URIs: every entry in its place and to the letter, no secret in any message, the list never in memory."""

import contextlib
import http.server
import threading
import tracemalloc
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray.io import stores, web
from icce_ray.io.sources import SourceError, SourceSpec, open_source
from icce_ray.io.sources import uris as module
from icce_ray.io.sources.uris import UriList
from tests.failures import fails
from tests.sources import bytes_of, listed


def source_of(location, **options):
    return UriList(SourceSpec(str(location), "uris", **options))


def uris_of(source):
    return listed(source)["uri"].to_pylist()


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_entries_keep_their_order_and_their_letters(tmp_path):
    names = ["b.jpg", "a.jpg", "#1.jpg", "a b.jpg", "50%25.jpg", "x/ü 日.jpg", "b.jpg", "q?a=1.jpg", "~/h.jpg"]
    for name in names:
        write(tmp_path / "lists" / name, name)
    source = source_of(write(tmp_path / "lists" / "all.txt", *names))
    rows = listed(source)
    assert rows["uri"].to_pylist() == rows["key"].to_pylist() == names
    assert [rows[name].null_count for name in ("size", "container", "position")] == [len(names)] * 3
    assert bytes_of(open_source(source.spec)) == [name.encode() for name in names]
    assert list(source_of(tmp_path / "lists" / "all.txt").files()) == [
        ("all.txt", sum(len(n.encode()) + 1 for n in names) - 1)
    ]


@pytest.mark.parametrize(
    ("content", "entries"),
    [
        (b"a.jpg", ["a.jpg"]),
        (b"a.jpg\r\nb.jpg\r\n", ["a.jpg", "b.jpg"]),
        (b"\n  a.jpg\t\n \n\nb.jpg\n\n", ["a.jpg", "b.jpg"]),
        (b"\xef\xbb\xbfa.jpg\n\xef\xbb\xbf.jpg", ["a.jpg", "\ufeff.jpg"]),
    ],
)
def test_lines_of_any_kind(tmp_path, content, entries):
    assert uris_of(source_of(write(tmp_path / "list.lst", content))) == entries


def test_where_paths_count_from(tmp_path):
    picture = write(tmp_path / "pictures" / "a b#.jpg", "one")
    quoted = f"file://{tmp_path}/pictures/a%20b%23.jpg"
    entries = ["../pictures/a b#.jpg", "./../pictures//a b#.jpg", str(picture), quoted, "gone.jpg", str(tmp_path)]
    *found, gone, folder = bytes_of(source_of(write(tmp_path / "lists" / "list.txt", *entries)))
    assert found == [b"one"] * 4
    assert [reject.reason for reject in (gone, folder)] == ["unreadable"] * 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("https://user:hush@host/a.jpg", "credentials"),
        ("https://host/a.jpg?X-Amz-Signature=hush", "credentials"),
        ("s3://bucket/a.jpg?secret_key=hush", "credentials"),
        ("https:/user:hush@host/a.jpg", "//"),
        ("HTTPS:\\\\user:hush@host/a.jpg", "//"),
        ("ftp://host/hush.jpg", "no store is known for ftp://"),
        ("s3://bucket/a b.jpg", "percent-encode"),
        ("gs://bucket/a#1.jpg", "percent-encode"),
        ("s3://bucket", "names no file"),
        ("https://host", "names no file"),
        ("file://folder/hush.jpg", "three slashes"),
        (b"\xff\xfe.jpg", "not UTF-8"),
        ("x" * 20000, "longer than 16384 bytes"),
    ],
)
def test_entries_that_cannot_be_one_name_their_line(tmp_path, entry, message):
    path = write(tmp_path / "list.txt", "a.jpg", "", entry, "b.jpg")
    with fails(SourceError, message) as error:
        listed(source_of(path))
    assert "line 3 of list.txt" in str(error.value)
    assert "hush" not in str(error.value)
    data = ["a.jpg", None, entry] if isinstance(entry, str) else [b"a.jpg", None, entry]
    column = pa.array(data, pa.string()) if isinstance(entry, str) else pa.array(data, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"uri": column}), tmp_path / "list.parquet")
    with fails(SourceError, "row 2 of list.parquet"):
        listed(source_of(tmp_path / "list.parquet"))


def test_an_empty_list_and_none(tmp_path):
    with fails(SourceError, tmp_path / "list.txt", "0 images") as caught:
        listed(source_of(write(tmp_path / "list.txt", "", "  ")))
    assert "*." not in str(caught.value)
    with fails(SourceError, tmp_path / "gone.txt"):
        listed(source_of(tmp_path / "gone.txt"))


def test_tables_of_uris(tmp_path):
    for name in ("a.jpg", "sub/b.jpg", "sub/c.jpg"):
        write(tmp_path / name, name)
    (tmp_path / "notes.txt").write_text("no list")
    pq.write_table(pa.table({"caption": ["x"], "url": ["a.jpg"], "name": ["A"]}), tmp_path / "1.parquet")
    table = pa.table({"url": ["b.jpg", None, "", "c.jpg"], "name": ["B", "N", None, None], "caption": ["x"] * 4})
    pq.write_table(table, tmp_path / "sub" / "2.parquet")
    source = source_of(tmp_path, key_column="name")
    rows = listed(source)
    assert source.spec.column == "url"
    assert rows["uri"].to_pylist() == ["a.jpg", "sub/b.jpg", "sub/2.parquet/1", "sub/2.parquet/2", "sub/c.jpg"]
    assert rows["key"].to_pylist() == ["A", "B", "N", "sub/2.parquet/2", "c.jpg"]
    one, two, null, empty, three = bytes_of(open_source(source.spec))
    assert (one, two, three) == (b"a.jpg", b"sub/b.jpg", b"sub/c.jpg")
    assert str(null) == str(empty) == "unreadable: the list has no URI in this row"
    assert uris_of(source_of(tmp_path / "sub" / "2.parquet")) == ["b.jpg", "2.parquet/1", "2.parquet/2", "c.jpg"]


def test_the_column_of_a_table(tmp_path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"where": pa.array(["a.jpg"]).dictionary_encode(), "label": [1]}), path)
    assert uris_of(source_of(path)) == ["a.jpg"]
    pq.write_table(pa.table({"from": ["a.jpg"], "to": ["b.jpg"]}), path)
    with fails(SourceError, "(from, to)", "list.column=NAME"):
        source_of(path)
    assert uris_of(source_of(path, column="to")) == ["b.jpg"]
    with fails(SourceError, "has column 'nope' 0 times", "from (string)"):
        uris_of(source_of(path, column="nope"))


def test_the_list_is_never_in_memory(tmp_path):
    path = tmp_path / "list.txt"
    with path.open("w") as file:
        file.writelines(f"folder/image-{row:09d}.jpg\n" for row in range(100_000))
    listing = source_of(path).listing()
    count = len(next(listing))
    tracemalloc.start()
    try:
        for table in listing:
            count += len(table)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100_000
    assert most < path.stat().st_size + (1 << 20) < 8 << 20  # 4,096 rows as Python strings, and the read-ahead


def test_on_a_store(radosgw, tmp_path):
    bucket = radosgw.bucket()
    keys = ["set/a b.jpg", "set/ü.jpg", "other/50%.jpg"]
    for key in keys:
        radosgw.client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    whole = [radosgw.uri(f"{bucket}/{key}") for key in ("set/a%20b.jpg", "set/%C3%BC.jpg", "other/50%25.jpg")]
    local = write(tmp_path / "here.jpg", "here")
    entries = [*whole, "a b.jpg", "ü.jpg", str(local), "gone.jpg", radosgw.uri("nobucket-0/x.jpg")]
    radosgw.client.put_object(Bucket=bucket, Key="set/list.txt", Body="\n".join(entries).encode())
    *found, gone, nowhere = bytes_of(source_of(radosgw.uri(f"{bucket}/set/list.txt")))
    assert found == [key.encode() for key in keys] + [key.encode() for key in keys[:2]] + [b"here"]
    assert [reject.reason for reject in (gone, nowhere)] == ["unreadable"] * 2
    assert bytes_of(source_of(write(tmp_path / "list.txt", *whole))) == [key.encode() for key in keys]
    write(tmp_path / "many.txt", *(radosgw.uri(f"{bucket}/set/{row}.jpg") for row in range(5000)))
    before = stores._remote.cache_info().misses
    assert len(listed(source_of(tmp_path / "many.txt"))) == 5000
    assert stores._remote.cache_info().misses - before <= 3
    radosgw.client.put_object(Bucket=bucket, Key="set/up.txt", Body=b"../other/x.jpg")
    with fails(SourceError, "write the whole URI"):
        listed(source_of(radosgw.uri(f"{bucket}/set/up.txt")))


@pytest.fixture
def web_server(monkeypatch):
    """Answers a path with itself; `/gone` with 404, `/to/...` with a redirect, `/drip` and `/slow` with ever more."""
    monkeypatch.setattr(module, "_WEB_PATIENCE", 0.2)
    monkeypatch.setattr(web, "PATIENCE", 0.4)
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/slow"):
                self.drip(b"HTTP/1.1 200 OK\r\nX: ")
                return
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", unquote(self.path.removeprefix("/to/")))
            else:
                self.send_response(404 if "gone" in self.path else 200)
            self.end_headers()
            if self.path.startswith("/drip"):
                self.drip(b"")
            self.wfile.write(self.server.lists.get(self.path, self.path).encode())

        def drip(self, start):
            self.wfile.write(start)
            with contextlib.suppress(OSError):
                while not done.wait(0.02):
                    self.wfile.write(b"x")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.lists = {}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        done.set()
        server.shutdown()
        thread.join()


def test_web_addresses(web_server, tmp_path):
    host = f"http://127.0.0.1:{web_server.server_port}"
    good = {"/a%20b.jpg?width=3": "/a%20b.jpg?width=3", "/ü.jpg": "/%C3%BC.jpg", "/to//here.jpg": "/here.jpg"}
    bad = {
        f"{host}/gone.jpg": f"{host}/gone.jpg",
        "http://127.0.0.1:9/x.jpg": "did not answer",
        f"{host}/drip.jpg": "0.4 s",
        f"{host}/slow.jpg": "0.4 s",
        f"{host}/to/http://localhost:{web_server.server_port}/x.jpg": "localhost",
        f"{host}/to/file:///etc/passwd": "redirects",
        f"{host}/to/" + quote(f"{host}/to/" + quote(f"{host}/to/" * 9 + "x")): "redirects",
    }
    source = source_of(write(tmp_path / "list.txt", *(host + path for path in good), *bad))
    found = bytes_of(source)
    assert found[: len(good)] == [body.encode() for body in good.values()]
    for reject, detail in zip(found[len(good) :], bad.values(), strict=True):
        assert reject.reason == "unreadable"
        assert detail in reject.detail


def test_a_list_from_the_web_names_no_file_of_this_machine(web_server):
    host = f"http://127.0.0.1:{web_server.server_port}"
    web_server.lists = {
        "/good.txt": f"{host}/a.jpg\nb.jpg",
        "/path.txt": "/etc/passwd",
        "/uri.txt": "file:///etc/passwd",
    }
    assert bytes_of(source_of(f"{host}/good.txt")) == [b"/a.jpg", b"/b.jpg"]
    for name in ("path.txt", "uri.txt"):
        with fails(SourceError, f"line 1 of {name}", "download"):
            listed(source_of(f"{host}/{name}"))
