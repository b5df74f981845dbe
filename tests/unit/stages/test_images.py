"""An error in a task as Ray Data hands it on: only text, in which ours must be found again. Features beyond float16."""

import numpy as np
import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError, UserCodeException

from icce_ray.io.locations import UnavailableError
from icce_ray.stages.features import list_column
from icce_ray.stages.images import _as_it_was, _Embedder
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


@pytest.mark.parametrize(
    ("scale", "reason", "fact"), [(1e6, "nonfinite_feature", "divide"), (1e-9, "zero_feature", "multiply")]
)
def test_features_that_float16_cannot_hold_are_rejects_that_say_what_helps(scale, reason, fact):
    features = np.array([[1.0, 2.0], [scale, 2 * scale]], np.float32)
    nothing = pa.nulls(2, pa.string())
    table = pa.table({"reason": nothing, "detail": nothing, "features": list_column(features)})
    done = _Embedder(embed=None, device="cpu", sharers=1, labeller=None)(table)
    assert done["reason"].to_pylist() == [None, reason]
    assert fact in done["detail"][1].as_py()
    assert done["features"].to_pylist() == [[1.0, 2.0], [0.0, 0.0]]
