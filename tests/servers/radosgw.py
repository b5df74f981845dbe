"""Ceph's S3 gateway from Debian's packages as a real store: signatures, policies, multipart uploads, kill -9.

apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any, Literal

from tests.servers.s3 import ACCESS_KEY, SECRET_KEY

_PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "monmaptool")
_CONF = """\
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{mon_port}
public_network = 127.0.0.0/8
ms_bind_msgr2 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = {dir}
admin_socket = {dir}/$name.asok
log_file = {dir}/log/$name.log
crash_dir = {dir}/crash
mon_data = {dir}/$name
osd_data = {dir}/$name
mon_data_avail_crit = 1
mon_data_avail_warn = 2
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 2000
osd_objectstore = {store}
memstore_device_bytes = 4294967296
bluestore_block_size = 21474836480
bluestore_fsck_on_mkfs = false
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
osd_memory_target = 939524096
osd_op_num_shards = 2
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
mon_tick_interval = 1
osd_class_load_list = *
osd_class_default_list = *
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_thread_pool_size = 32
rgw_enable_ops_log = false
rgw_enable_usage_log = false
rgw_dns_name = localhost
rgw_lc_debug_interval = -1
"""


def available() -> str | None:
    """None if the server can be started here, else why not."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}; apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr"
    if os.geteuid() != 0:
        return "Ceph's daemons are started as root here"
    return None


class RadosGateway:
    """One monitor, one disk and one gateway in `folder`, all children of this process.

    `memstore` starts faster and loses all data when it stops; `bluestore` keeps acknowledged data across `kill`.
    """

    access_key = "testkey"
    secret_key = "testsecret"

    def __init__(self, folder: Path, store: Literal["memstore", "bluestore"] = "memstore") -> None:
        self.folder = folder.resolve()
        self.port, self._mon_port = _free_port(), _free_port()
        self._store = store
        self._conf = ["-c", str(self.folder / "ceph.conf")]
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def create(self) -> RadosGateway:
        """Make the cluster and its first user, and start it."""
        try:
            self._create()
        except BaseException:
            self.kill()
            raise
        return self

    def _create(self) -> None:
        fsid = str(uuid.uuid4())
        for name in ("log", "crash", "mon.a", "osd.0"):
            (self.folder / name).mkdir(parents=True)
        text = _CONF.format(fsid=fsid, dir=self.folder, port=self.port, mon_port=self._mon_port, store=self._store)
        (self.folder / "ceph.conf").write_text(text)
        address = f"[v1:127.0.0.1:{self._mon_port}]"
        monmap = str(self.folder / "monmap")
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap, conf=False)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        self._spawn("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        # Asked before it has made its first maps, the monitor does not know its own cluster ("wrong fsid") and refuses.
        self._run("ceph", "--connect-timeout", "30", "osd", "new", osd, attempts=20)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._start_disk_and_gateway()
        self.add_user("t", ACCESS_KEY, SECRET_KEY)

    def start(self) -> None:
        """Start again after `kill` or `stop`, on the same port."""
        self._spawn("ceph-mon", "-i", "a")
        self._start_disk_and_gateway()

    def kill(self) -> None:
        """All three by SIGKILL: what was not on disk is lost."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        """A user without buckets; a bucket's policy can grant rights to `arn:aws:iam:::user/NAME`."""
        user = ["user", "create", f"--uid={name}", f"--display-name={name}"]
        self._run("radosgw-admin", *user, f"--access-key={access_key}", f"--secret-key={secret_key}")

    def _start_disk_and_gateway(self) -> None:
        disk = self._spawn("ceph-osd", "-i", "0")
        gateway = self._spawn("radosgw", "-n", "client.rgw")
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if gateway.poll() is not None:
                break
            if disk.poll() is not None:
                # On a busy machine it may ask the monitor before it knows the cluster: "wrong fsid", and it gives up.
                self._daemons.remove(disk)
                time.sleep(0.3)
                disk = self._spawn("ceph-osd", "-i", "0")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError(f"radosgw ended or did not answer within 120 s; see {self.folder}/log")

    def _run(self, program: str, *arguments: str, conf: bool = True, attempts: int = 1) -> None:
        command = [program, *(self._conf if conf else []), *arguments]
        for _ in range(attempts):
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if not done.returncode:
                return
            time.sleep(0.1)
        raise RuntimeError(f"{command} failed {attempts} times: {done.stderr[-2000:]}")

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [program, *self._conf, "-f", *arguments]
        with (self.folder / "log" / f"{program}.out").open("ab") as out:
            daemon = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self._daemons.append(daemon)
        return daemon

    def _end(self, how: signal.Signals) -> None:
        for daemon in reversed(self._daemons):
            daemon.send_signal(how)
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()


def read_only(client: Any, bucket: str, user: str) -> None:
    """Let `user` list and read `bucket`, and write nothing."""
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    allow = {
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
        "Action": ["s3:ListBucket", "s3:GetObject", "s3:GetBucketLocation"],
        "Resource": resources,
    }
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
