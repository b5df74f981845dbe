"""What tests of the lock look at, and locks that others left."""

import dataclasses
import datetime

from icce_ray.io import conditional
from icce_ray.io.storage import Storage
from icce_ray.store.lock import LOCK_FILE, Holder


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


class Clock:
    """Time passes by `sleep` alone, at once."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
