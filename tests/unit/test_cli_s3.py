"""What `icce run` says of a bucket that it cannot use: wrong key, secret, bucket, prefix or permission, and soon."""

import pytest

from icce_ray.cli import main as cli
from tests.servers.radosgw import read_only
from tests.servers.s3 import SECRET_KEY, forget_clients

READER, READER_SECRET = "guestkey", "guestsecret"


pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def places(radosgw, tmp_path):
    """(server, bucket with one image below `in/`, a local folder with one image)."""
    bucket = radosgw.bucket()
    radosgw.client.put_object(Bucket=bucket, Key="in/0.png", Body=b"listed, never read")
    (tmp_path / "photos").mkdir()
    for index in range(3):
        (tmp_path / "photos" / f"{index}.png").write_bytes(b"listed, never read")
    yield radosgw, bucket, tmp_path / "photos"
    forget_clients()


@pytest.fixture
def refused(icce):
    """Calls `icce run SOURCE --out OUT`, which must refuse and show no secret; gives the message."""

    def call(source, out):
        forget_clients()
        status, _, message = icce("run", source, "-k", "2", "--out", out, "--backbone", "hog")
        assert status == cli.EXIT_ERROR
        assert message.count("error: ") == 1
        assert SECRET_KEY not in message
        assert READER_SECRET not in message
        return message

    return call


@pytest.mark.parametrize("where", ["source", "out"])
@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("AWS_ACCESS_KEY_ID", "nobody", "the store does not know the access key"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the secret key does not belong to the access key"),
    ],
)
def test_a_wrong_key_or_secret(refused, places, monkeypatch, where, variable, value, says):
    server, bucket, photos = places
    monkeypatch.setenv(variable, value)
    remote = server.uri(f"{bucket}/{'in' if where == 'source' else 'run'}")
    arguments = (remote, photos.parent / "run") if where == "source" else (photos, remote)
    message = refused(*arguments)
    assert says in message
    assert f"http://{server.endpoint}" in message
    assert not (photos.parent / "run").exists()


@pytest.mark.parametrize("where", ["source", "out"])
def test_a_missing_bucket(refused, places, where):
    server, _, photos = places
    remote = server.uri("no-such-bucket/x")
    arguments = (remote, photos.parent / "run") if where == "source" else (photos, remote)
    assert "there is no such bucket" in refused(*arguments)


def test_a_missing_prefix(refused, places):
    server, bucket, photos = places
    message = refused(server.uri(f"{bucket}/inn"), photos.parent / "run")
    assert f"s3://{bucket}/inn" in message
    assert "does not exist" in message


def test_no_permission_to_write(refused, places, monkeypatch):
    server, bucket, photos = places
    server.gateway.add_user("guest", READER, READER_SECRET)
    read_only(server.client, bucket, "guest")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    message = refused(photos, server.uri(f"{bucket}/run"))
    assert "access is denied" in message
    assert "s3:PutObject" in message
    forget_clients()
    assert not [item for item in server.client.list_objects_v2(Bucket=bucket)["Contents"] if item["Key"] != "in/0.png"]
