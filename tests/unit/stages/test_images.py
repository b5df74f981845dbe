"""An error in a task as Ray Data hands it on: only text, in which ours must be found again. The precision asked for."""

from ray.exceptions import RayTaskError, UserCodeException

from icce_ray.adapters.locations import UnavailableError
from icce_ray.stages.images import _as_it_was
from icce_ray.store import RunError

TRACE = """ray::MapBatches(_read_chunk)() (pid=1, ip=127.0.0.1)
  File "locations.py", line 191, in retried
OSError: icce_ray was asked for
The above exception was the direct cause of the following exception:
{error}
ray.exceptions.UserCodeException: UDF failed to process a data block."""


def task_error(text):
    return RayTaskError("_read_chunk", TRACE.format(error=text), UserCodeException("UDF failed"))


def test_an_error_of_ours_is_its_own_words():
    name = f"{UnavailableError.__module__}.{UnavailableError.__qualname__}"
    error = _as_it_was(task_error(f"{name}: bucket/x did not answer; the same command resumes"))
    assert isinstance(error, RunError)
    assert str(error) == "bucket/x did not answer; the same command resumes"


def test_any_other_comes_whole():
    unforeseen = task_error("KeyError: 'a fault in the program'")
    assert _as_it_was(unforeseen) is unforeseen
