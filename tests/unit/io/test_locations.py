"""URIs to filesystems: options from a list, no secrets, and which errors pass and which stay."""

import socket
import threading
import traceback
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given, settings
from hypothesis import strategies as st

from icce_ray.io import locations
from icce_ray.io.locations import (
    LocationError,
    StorageError,
    TooLargeError,
    UnavailableError,
    is_transient,
    refuse_secrets,
    retried,
    s3_location,
)
from icce_ray.io.stores import StoredFile, info, read_whole, resolve
from tests.failures import fails
from tests.servers.proxy import FaultProxy

SECRET = "hunter2"


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIA:{SECRET}@bucket/a",
        f"s3://AKIA:{SECRET}/with/slash@bucket/a",
        f"gs://AKIA:{SECRET}@bucket/a",
        f"https://user:{SECRET}@host/a.png",
        f"https://{SECRET}@host/a.png",
        f"abfs://container:{SECRET}@account.dfs.core.windows.net/a",
        f"https://host/a.png?X-Amz-Signature={SECRET}&X-Amz-Credential=x",
        f"https://host/a.png?x-amz-security-token={SECRET}",
        f"https://host/a.png?sv=2024&sig={SECRET}",
        f"https://host/a.png#access_token={SECRET}",
        f"https://[{SECRET}",
        f"https://host/a.png?key=AIza{SECRET * 4}",
        f"https://host/a.png?key=0123456-{SECRET * 4}",
        f"https://host/a.png?x=eyJ{SECRET}.{SECRET}.{SECRET}",
        f"https:/user:{SECRET}@host/a.png",
        f"s3:/user:{SECRET}@bucket/a.png",
        f"s3://bucket/a?endpoint_override=http://user:{SECRET}@host:9000",
        f"s3://bucket/a?endpoint_override={SECRET}%40host",
        f"https://a:{SECRET}\u2100@host/a",  # whose normal form holds a "/", which urlsplit refuses and quotes
        *(
            f"s3://bucket/a?region=x&{name}={SECRET}"
            for name in (
                *("access_key", "secret_key", "session_token", "signature", "token", "account_key", "SECRET_KEY"),
                *("aws_secret_access_key", "AWSAccessKeyId", "password", "sas_token", "secret%5Fkey", "AccountKey"),
                *("pwd", "jwt", "authkey", "subscription-key", "db_pass", "Ocp-Apim-Subscription-Key", "bearer"),
            )
        ),
    ],
)
def test_credentials_are_refused_without_repeating_them(uri):
    for call in (refuse_secrets, resolve):
        with pytest.raises(LocationError) as caught:
            call(uri)
        assert SECRET not in "".join(traceback.format_exception(caught.value)).replace(__file__, "")


@pytest.mark.parametrize(
    "uri",
    [
        "/home/a@b:c/token=1",
        "s3://bucket/token=1/a@b?region=us-east-1",
        "gs://anonymous@bucket/a",
        "abfs://container@account.dfs.core.windows.net/a",
        "https://host:8080/key/a.png?width=100&design=2&key=photos/1.jpg&compass=n&author=x&monkey=1",
        "file:///home/a@b",
    ],
)
def test_what_only_looks_like_a_credential_is_let_through(uri):
    assert refuse_secrets(uri) == uri


@given(st.text())
@settings(max_examples=50)
def test_any_text_is_a_location_or_a_location_error(text):
    for uri in (f"s3://{text}", f"s3://bucket/{text}", f"https://{text}"):
        try:
            refuse_secrets(uri)
            path, _ = s3_location(uri)
        except LocationError:
            continue
        assert path


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("s3://bucket/a?colour=secretish", "'colour'"),
        ("s3://bucket/a?scheme=ftp", "https"),
        ("s3://bucket/a?anonymous=maybe", "anonymous"),
        ("s3://bucket/a b", "percent-encode"),
        ("s3://bucket/a%2", "percent-encode"),
        ("s3://bucket/a#b", "%23"),
        ("s3:///a", "BUCKET"),
    ],
)
def test_malformed_locations_say_what_to_do(uri, part):
    with fails(LocationError, part) as caught:
        resolve(uri)
    assert "secretish" not in str(caught.value)


def test_keys_are_decoded_and_clients_shared():
    options = (
        "?region=us-east-1&endpoint_override=localhost:1&scheme=http&force_virtual_addressing=false&anonymous=true"
    )
    filesystem, path = resolve(f"s3://bucket/run/a%20b%25%2Bc%3F=1/{options}")
    assert path == "bucket/run/a b%+c?=1"
    assert resolve(f"s3://other/x{options}")[0] is filesystem


def test_an_endpoint_of_the_environment(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:1")
    assert s3_location("s3://bucket/a")[1].endpoint_url == "http://localhost:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://localhost:2/")
    assert s3_location("s3://bucket/a")[1].endpoint_url == "https://localhost:2"
    given_too = s3_location("s3://bucket/a?endpoint_override=localhost:3&scheme=http")[1]
    assert given_too.endpoint_url == "http://localhost:3"


@pytest.mark.parametrize("endpoint", [f"http://user:{SECRET}@host:9000", f"{SECRET}@host", f"host?key={SECRET}", "a b"])
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_with_more_than_a_host_is_refused_without_repeating_it(monkeypatch, name, endpoint):
    monkeypatch.setenv(name, endpoint)
    with fails(LocationError, name, "HOST:PORT") as caught:
        s3_location("s3://bucket/a")
    assert endpoint not in "".join(traceback.format_exception(caught.value)).replace(__file__, "")


@pytest.fixture
def website(tmp_path):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            """Say nothing."""

    (tmp_path / "a b.bin").write_bytes(b"0123456789")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def read(uri, most=1 << 20):
    return read_whole(*resolve(uri), most=most)


def test_http_can_be_read(website):
    url = f"http://127.0.0.1:{website}/a%20b.bin"
    assert read(url) == b"0123456789"
    with fails(TooLargeError, "10 bytes"):
        read(url, most=9)
    assert info(url) == ("file", 10)
    with StoredFile(*resolve(url)) as file:
        file.seek(3)
        assert file.read(4) == b"3456"
    none = f"http://127.0.0.1:{website}/none"
    with pytest.raises(FileNotFoundError):
        read(none)
    assert info(none) == (None, None)


@pytest.mark.parametrize("fault", ["busy", "broken", "cut_down"])
def test_faults_of_http_pass_and_are_not_a_missing_file(website, fault):
    with FaultProxy(website) as proxy:
        faults = iter([fault] * 3)
        proxy.on_request = lambda method, path: next(faults, None)
        assert retried(lambda: read(f"http://127.0.0.1:{proxy.port}/a%20b.bin")) == b"0123456789"
        assert proxy.done[fault] == 3
        assert proxy.done["requests"] == 4


@pytest.mark.parametrize(
    ("status", "error", "passes"),
    [
        (403, PermissionError, False),
        (410, FileNotFoundError, False),
        (418, StorageError, False),
        (429, StorageError, True),
    ],
)
def test_answers_of_web_servers(website, status, error, passes):
    with FaultProxy(website) as proxy:
        proxy.on_request = lambda method, path: (status, "Because")
        with fails(error, f"127.0.0.1:{proxy.port}/a") as caught:
            read(f"http://127.0.0.1:{proxy.port}/a")
        assert is_transient(caught.value) is passes


def error_of(call):
    with fails(OSError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("fault", ["busy", "broken", "cut_up", "cut_down"])
def test_faults_of_s3_are_transient(s3_server, fault):
    bucket = s3_server.bucket()
    s3_server.client.put_object(Bucket=bucket, Key="a", Body=b"1" * 300_000)
    with FaultProxy(s3_server.port) as proxy:
        proxy.shares[fault] = 1.0
        store, path = resolve(s3_server.uri(f"{bucket}/a", port=proxy.port))
        calls = {
            "head": lambda: store.info(path),
            "read": lambda: store.cat_file(path),
            "read none": lambda: store.cat_file(f"{path}b"),  # the answer that says so is cut as well
            "write": lambda: store.pipe_file(path, b"2" * 300_000),
            "long write": lambda: store.pipe_file(path, b"2" * 20_000_000),
        }
        meant = {"cut_up": ["write", "long write"], "cut_down": ["read", "read none"]}.get(
            fault, ["head", "read", "write"]
        )
        for name in meant:
            error = error_of(calls[name])
            assert is_transient(error), (name, str(error))


def test_nobody_there_is_transient_missing_is_not(s3_server):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    store, path = resolve(s3_server.uri("bucket/a", port=port))
    assert is_transient(error_of(lambda: store.info(path)))
    store, path = resolve(s3_server.uri(f"{s3_server.bucket()}/none"))
    assert not is_transient(error_of(lambda: store.cat_file(path)))
    store, path = resolve(s3_server.uri("no-such-bucket/a"))
    assert not is_transient(error_of(lambda: store.pipe_file(path, b"2" * 10)))


class Clock:
    """time.monotonic and time.sleep without waiting."""

    def __init__(self):
        self.now, self.pauses = 100.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(locations, "time", clock)
    return clock


def test_patience_is_in_seconds_and_said_after_five(clock, caplog):
    def busy():
        raise ConnectionResetError("by peer")

    with fails(UnavailableError, "s3://b/a", "tried ", "by peer", "the same command resumes"):
        retried(busy, patience=60, what="s3://b/a")
    waits = [record.getMessage() for record in caplog.records]
    assert 3 <= len(waits) <= 5
    assert all("s3://b/a" in wait for wait in waits)
    assert 54 < clock.now - 100 <= 60
    assert clock.pauses[0] <= 0.1
    assert 2.5 <= max(clock.pauses) <= 5
    assert len(set(clock.pauses)) == len(clock.pauses)  # no two clients in step


def test_waiting_is_not_nested(clock):
    def outer():
        return retried(inner, patience=1)

    def inner():
        raise ConnectionResetError("by peer")

    with pytest.raises(UnavailableError):
        retried(outer)
    assert clock.now < 102


class Answer(Exception):
    """As a client's error with an HTTP status: adlfs has `status_code`, gcsfs `code`."""

    __module__ = "gcsfs.retry"

    def __init__(self, code):
        self.code = code


def explained(cause):
    error = StorageError("s3://bucket/a: why")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (TimeoutError("x"), True),
        (ConnectionRefusedError(111, "refused"), True),
        (Answer(429), True),
        (Answer(503), True),
        (Answer(501), False),
        (Answer(403), False),
        (explained(Answer(503)), True),
        (explained(ValueError("503")), False),
        (
            explained(
                ClientError({"Error": {"Code": "RequestTimeout"}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "P")
            ),
            True,
        ),
        (EndpointConnectionError(endpoint_url="http://host"), True),
        (aiohttp.ServerDisconnectedError(), True),
        (ValueError("timed out"), False),
        (OSError(28, "No space left on device"), False),
        (FileNotFoundError("SlowDown"), False),
        (UnavailableError("SlowDown"), False),
        (StorageError("a.parquet is not a readable Parquet file"), False),
    ],
)
def test_which_errors_are_transient(error, transient):
    assert is_transient(error) is transient


def test_stores_of_google_and_azure_name_their_extra():
    for uri, extra in (
        ("gs://bucket/a", "gcs"),
        ("az://container/a", "azure"),
        ("abfs://c@a.dfs.core.windows.net/a", "azure"),
    ):
        with fails(LocationError, f"icce-ray[{extra}]"):
            resolve(uri)
    with fails(LocationError, "'colour'", "endpoint_override"):
        resolve("gs://bucket/a?colour=1")
