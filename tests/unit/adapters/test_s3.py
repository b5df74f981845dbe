"""The S3 client beside Arrow's, against moto and Ceph's gateway."""

from concurrent.futures import ThreadPoolExecutor

from icce_ray.adapters import s3


def test_put_if_absent_or_unchanged(s3_server):
    uri = s3_server.uri(f"{s3_server.bucket()}/lock%20a.json")
    assert s3.get_with_etag(uri) is None
    first = s3.put_if(uri, b"one", etag=None)
    assert first is not None
    assert '"' not in first
    assert s3.put_if(uri, b"two", etag=None) is None
    assert s3.get_with_etag(uri) == (b"one", first)
    second = s3.put_if(uri, b"two", etag=first)
    assert second is not None
    assert s3.put_if(uri, b"three", etag=first) is None
    assert s3.get_with_etag(uri) == (b"two", second)
    s3_server.client.delete_object(Bucket=uri[5:].split("/")[0], Key="lock a.json")
    assert s3.put_if(uri, b"three", etag=second) is None
    assert s3.get_with_etag(uri) is None


def test_one_of_sixteen_writers_wins(s3_server):
    bucket = s3_server.bucket()
    with ThreadPoolExecutor(16) as pool:
        for number in range(10):
            uri = s3_server.uri(f"{bucket}/lock-{number}")
            etags = list(pool.map(lambda n, uri=uri: s3.put_if(uri, b"writer %d" % n, etag=None), range(16)))
            winners = [n for n, etag in enumerate(etags) if etag is not None]
            assert len(winners) == 1
            assert s3.get_with_etag(uri) == (b"writer %d" % winners[0], etags[winners[0]])
            held = etags[winners[0]]
            etags = list(pool.map(lambda n, u=uri, e=held: s3.put_if(u, b"next %d" % n, etag=e), range(16)))
            assert sum(etag is not None for etag in etags) == 1
