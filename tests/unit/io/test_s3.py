"""The S3 store, against moto and Ceph's gateway."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from icce_ray.io import s3
from icce_ray.io.conditional import current, swap
from icce_ray.io.locations import StorageError, UnavailableError, s3_location
from icce_ray.io.stores import abort_uploads, check_access, resolve
from tests.failures import fails
from tests.servers.proxy import Fault, FaultProxy
from tests.servers.radosgw import read_only
from tests.servers.s3 import SECRET_KEY, forget_clients

WRONG = "hunter2hunter2"
CUT: Fault = "cut_down"


def pages(uri, ending="", **options):
    store, path = resolve(uri)
    return list(store.pages(path + ending, **options))


def test_versions_are_etags(s3_server):
    """Of a key with a blank; without quotes."""
    bucket = s3_server.bucket()
    uri = s3_server.uri(f"{bucket}/lock%20a.json")
    first = swap(uri, b"one", None)
    assert first == s3_server.client.head_object(Bucket=bucket, Key="lock a.json")["ETag"].strip('"')
    s3_server.client.delete_object(Bucket=bucket, Key="lock a.json")
    assert swap(uri, b"two", first) is None
    assert current(uri) is None


def test_one_of_eight_writers_wins_where_answers_get_lost(radosgw):
    bucket = radosgw.bucket()
    with FaultProxy(radosgw.port) as proxy, ThreadPoolExecutor(8) as pool:
        chance = iter([True, False, True, False, False] * 1000)
        proxy.on_request = lambda method, path: CUT if method == "PUT" and next(chance) else None
        for number in range(4):
            uri = radosgw.uri(f"{bucket}/lock-{number}", port=proxy.port)
            etags = list(pool.map(lambda n, uri=uri: swap(uri, b"writer %d" % n, None), range(8)))
            winners = [n for n, etag in enumerate(etags) if etag is not None]
            assert len(winners) == 1
            assert current(uri) == (b"writer %d" % winners[0], etags[winners[0]])
        assert proxy.done["cut_down"] > 4


def test_a_put_whose_answer_got_lost_is_known_as_ones_own(radosgw):
    uri = radosgw.uri(f"{radosgw.bucket()}/lock")
    with FaultProxy(radosgw.port) as proxy:
        behind = uri.replace(str(radosgw.port), str(proxy.port))
        etag = None
        for data in (b"first", b"second"):
            faults = iter((CUT,))
            proxy.on_request = lambda method, path, faults=faults: next(faults, None)
            etag = swap(behind, data, etag)
            assert current(uri) == (data, etag)
        assert proxy.done["cut_down"] == 2


def test_a_store_without_conditional_puts_says_so(moto):
    with FaultProxy(moto.port) as proxy:
        proxy.on_request = lambda method, path: (501, "NotImplemented")
        with fails(StorageError, "[NotImplemented]", "If-None-Match"):
            swap(moto.uri(f"{moto.bucket()}/lock", port=proxy.port), b"", None)
        assert proxy.done["requests"] == 1


def test_pages(radosgw):
    bucket = radosgw.bucket()
    keys = sorted(
        [f"run/a/{n:04d}" for n in range(1200)] + ["run/ü +%2F&?.png", "run/b//c", "run/../d", "run2", "run/z"]
    )
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: radosgw.client.put_object(Bucket=bucket, Key=key, Body=key.encode()), keys))
    both = pages(radosgw.uri(f"{bucket}/run"))
    assert [len(page.objects) for page in both] == [1000, 205]
    assert [item for page in both for item in page.objects] == [(key, len(key.encode())) for key in keys]
    (level,) = pages(radosgw.uri(f"{bucket}/run"), "/", delimiter="/")
    assert level.objects == [("run/z", 5), ("run/ü +%2F&?.png", 17)]
    assert level.prefixes == ["run/../", "run/a/", "run/b/"]
    assert pages(radosgw.uri(f"{bucket}/none")) == [s3.Page([], [])]
    store, _ = resolve(radosgw.uri(bucket))
    assert all(store.cat_file(f"{bucket}/{key}") == key.encode() for key in keys[-8:])


def test_unfinished_uploads_below_a_prefix_are_aborted(radosgw):
    bucket = radosgw.bucket()
    client = radosgw.client
    for key in ("run/a", "run/a", "run/b", "other"):
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 100)
    assert abort_uploads(radosgw.uri(f"{bucket}/run/")) == 3
    assert [item["Key"] for item in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["other"]
    assert abort_uploads(radosgw.uri(f"{bucket}/run/")) == 0


@pytest.mark.parametrize("answer", [(403, "AccessDenied"), (501, "NotImplemented")])
def test_uploads_that_may_not_be_listed_are_left_with_a_warning(moto, caplog, answer):
    with FaultProxy(moto.port) as proxy:
        proxy.on_request = lambda method, path: answer
        assert abort_uploads(moto.uri(f"{moto.bucket()}/run/", port=proxy.port)) == 0
    assert "unfinished uploads are left" in caplog.text
    assert answer[1] in caplog.text


def refused(uri):
    """What check_access says; no refusal holds a secret."""
    forget_clients()
    with pytest.raises(StorageError) as caught:
        check_access(uri)
    assert not any(secret in str(caught.value) for secret in (SECRET_KEY, WRONG))
    assert uri.partition("?")[0] in str(caught.value)
    assert s3_location(uri)[1].endpoint_url in str(caught.value)
    return str(caught.value)


@pytest.fixture
def environment(monkeypatch):
    """Changes of AWS_* that the next test does not see, nor the clients made with them."""
    yield monkeypatch
    monkeypatch.undo()
    forget_clients()


def test_wrong_keys_are_told_apart(radosgw, environment):
    uri = radosgw.uri(f"{radosgw.bucket()}/run")
    environment.setenv("AWS_SECRET_ACCESS_KEY", WRONG)
    assert "secret key does not belong to the access key" in refused(uri)
    environment.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "does not know the access key" in refused(uri)


def test_no_credentials(radosgw, environment):
    uri = radosgw.uri(f"{radosgw.bucket()}/run")
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials found; set AWS_ACCESS_KEY_ID" in refused(uri)
    environment.setenv("AWS_PROFILE", "absent")
    assert "the AWS profile cannot be used" in refused(uri)


def test_a_missing_bucket(s3_server):
    assert "there is no such bucket" in refused(s3_server.uri("no-such-bucket-here/run"))


def test_another_users_bucket(radosgw, environment):
    bucket = radosgw.bucket()
    radosgw.gateway.add_user("reader", "readerkey", WRONG)
    environment.setenv("AWS_ACCESS_KEY_ID", "readerkey")
    environment.setenv("AWS_SECRET_ACCESS_KEY", WRONG)
    uri = radosgw.uri(f"{bucket}/run")
    assert "grant s3:ListBucket and s3:GetObject, to write also s3:PutObject" in refused(uri)
    read_only(radosgw.client, bucket, "reader")
    for path in (bucket, f"{bucket}/no/such/prefix"):
        check_access(radosgw.uri(path))
    with fails(StorageError, "[AccessDenied]", "s3:PutObject") as caught:
        swap(uri, b"", None)
    assert WRONG not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((400, "ExpiredToken"), "session token has expired"),
        ((301, "PermanentRedirect"), "another region"),
        ((403, "RequestTimeTooSkewed"), "clock"),
        ((418, "Teapot"), "answers Teapot"),
    ],
)
def test_other_refusals(moto, answer, text):
    with FaultProxy(moto.port) as proxy:
        proxy.on_request = lambda method, path: answer if method == "GET" else None
        assert text in refused(moto.uri(f"{moto.bucket()}/run", port=proxy.port))


@pytest.mark.parametrize("listens", [False, True])
def test_an_endpoint_without_a_server(moto, monkeypatch, listens):
    monkeypatch.setattr(s3, "_CHECK_TIMEOUT", 0.2)
    monkeypatch.setattr(s3, "_CHECK_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if not listens:
            silent.close()
        message = refused(moto.uri("bucket/run", port=port))
    assert f"http://127.0.0.1:{port}: the endpoint cannot be reached" in message
    assert "times over" in message


def test_a_server_that_is_no_store(moto, monkeypatch):
    monkeypatch.setattr(s3, "_CHECK_PATIENCE", 1.0)
    with HTTPServer(("127.0.0.1", 0), Website) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        message = refused(moto.uri("bucket/run", port=server.server_port))
        server.shutdown()
    assert "what answers there is no S3 store" in message


class Website(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello<p>")

    def log_message(self, format, *args):
        """Say nothing."""


def test_https_to_a_server_without_it(moto):
    message = refused(moto.uri("bucket/run").replace("scheme=http", "scheme=https"))
    assert "?scheme=http" in message


def test_an_outage_is_called_one(moto, monkeypatch):
    monkeypatch.setattr(s3, "_CHECK_PATIENCE", 0.5)
    with FaultProxy(moto.port, busy=1) as proxy:
        uri = moto.uri(f"{moto.bucket()}/run", port=proxy.port)
        with fails(UnavailableError, "SlowDown", "same command"):
            check_access(uri)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 5000])
def test_the_last_bytes_of_an_object(radosgw, size):
    bucket, data = radosgw.bucket(), os.urandom(size)
    radosgw.client.put_object(Bucket=bucket, Key="a", Body=data)
    store, path = resolve(radosgw.uri(f"{bucket}/a"))
    assert store.last_bytes(path, 100) == (data[-100:], size)
    with fails(FileNotFoundError, f"{bucket}/b"):
        store.last_bytes(f"{bucket}/b", 100)


def test_a_missing_object_whose_answer_is_cut(moto):
    """The body of a 404 says whether it is the key or the bucket that is missing; without it, it is the key."""
    with FaultProxy(moto.port) as proxy:
        proxy.on_request = lambda method, path: (404, "")
        assert current(moto.uri(f"{moto.bucket()}/nothing", port=proxy.port)) is None
