"""MLflow: one MLflow run a run, on the server that MLFLOW_TRACKING_URI names; credentials are its own variables.

The run is found again by a tag; of what was told before only what is not there is sent.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from icce_ray.adapters.tracking.lines import Line
from icce_ray.adapters.tracking.sinks import RunNote, TrackingError

TAG = "icce_ray.run"
#: What a server takes at once (MLflow's REST API).
_METRICS, _PARAMS = 1000, 100


class MLflow:
    """Tells one run of an experiment, which is made if it is not there."""

    def __init__(self, experiment: str) -> None:
        # Its default of 7 repetitions keeps a run waiting for four minutes where no server is.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        self.experiment = experiment

    def open(self, run: RunNote, lines: Sequence[Line]) -> None:
        """Find or make the run, and send what it has not got."""
        from mlflow.tracking import MlflowClient

        with _told():
            self._client: Any = MlflowClient()
            found = self._client.get_experiment_by_name(self.experiment)
            where = found.experiment_id if found else self._client.create_experiment(self.experiment)
            runs = self._client.search_runs([where], filter_string=f"tags.`{TAG}` = '{run.id}'")
            known: set[tuple[str, int]] = set()
            if runs:
                self._id = runs[0].info.run_id
                self._client.update_run(self._id, status="RUNNING")
                for key in runs[0].data.metrics:
                    known |= {(key, one.step) for one in self._client.get_metric_history(self._id, key)}
            else:
                self._id = self._client.create_run(where, run_name=run.name, tags={TAG: run.id}).info.run_id
                self._send_params(run)
        self._send(lines, known)

    def tell(self, lines: Sequence[Line]) -> None:
        """Send them."""
        self._send(lines, set())

    def close(self, *, failed: bool) -> None:
        """The run's state is how the driver ended."""
        with _told():
            self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")

    def _send(self, lines: Sequence[Line], known: set[tuple[str, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(tag, value, round(1000 * line.time), line.step)
            for line in lines
            for tag, value in line.tagged()
            if (tag, line.step) not in known
        ]
        self._batches(metrics, _METRICS, lambda batch: self._client.log_batch(self._id, metrics=batch))

    def _send_params(self, run: RunNote) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in run.params.items()]
        self._batches(params, _PARAMS, functools.partial(self._client.log_batch, self._id, ()))

    def _batches(self, values: list[Any], size: int, send: Callable[[list[Any]], None]) -> None:
        with _told():
            for first in range(0, len(values), size):
                send(values[first : first + size])


@contextmanager
def _told() -> Iterator[None]:
    """MLflow's errors as ours."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "its default place")
        text = (
            f"MLflow at {uri} cannot be told: {error}; set MLFLOW_TRACKING_URI to a server that answers, or "
            "tracking.to without mlflow"
        )
        # MLflow's own messages have the address too, with a name and password where these stand in it.
        secret, at, _ = urlsplit(uri).netloc.rpartition("@")
        raise TrackingError(text.replace(secret + at, "").replace(secret, "...") if secret else text) from None
