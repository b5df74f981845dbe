"""The trackers that a run can log to, each by its own client: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from icce_ray.io.storage import Storage
from icce_ray.tracking import Event, RunInfo, Tracker, TrackingError

#: The package that each tracker needs.
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
#: The tag by which MLflow's run is found again.
MLFLOW_TAG = "icce_ray.run"


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of the trackers whose package is not installed."""
    return [name for name in names if importlib.util.find_spec(PACKAGES[name]) is None]


def make_tracker(name: str, *, storage: Storage, folder: str, experiment: str) -> Tracker:
    """The tracker of a name in PACKAGES; `folder` below `storage` is for TensorBoard's files."""
    if name == "tensorboard":
        return TensorBoard(storage, folder)
    return {"mlflow": MLflow, "wandb": WeightsAndBiases}[name](experiment)


class TensorBoard:
    """One event file below `folder`, made from the events of the run by tensorboardX.

    A file that was there is replaced: so a run that was killed has no step twice, and `--redo` leaves no curve of
    before. On a local disk it grows; in an object store it is put anew each time.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self.folder = storage, folder
        self._local = storage.local
        self._writer: Any = None
        self._last: dict[str, int] = {}

    def open(self, run: RunInfo, events: Sequence[Event]) -> None:
        """Nothing is written before there is something to show."""
        self._run, self._events = run, events
        # Curves of a run that goes on stay as they are until there is more; of one that is repeated they go at once.
        self._goes_on = any(event.event == "begin" for event in events)

    def log(self, events: Sequence[Event]) -> None:
        """Append; a step before one that is there means to start the file again, in order."""
        if self._goes_on and not any(event.tagged() for event in events):
            return
        back = any(event.step < self._last.get(tag, 0) for event in events for tag, _ in event.tagged())
        if back or self._writer is None:
            self._writer = self._start()
            events = sorted(self._events, key=lambda event: event.step)
        from tensorboardX.summary import scalar

        for event in events:
            for tag, value in event.tagged():
                self._writer.write_event(_message(scalar(tag, value), event.step, event.time.timestamp()))
                self._last[tag] = event.step
        self._writer.flush()
        if not self._local:
            (path,) = self._place.iterdir()
            self.storage.write_bytes(f"{self.folder}/{path.name}", path.read_bytes())

    def close(self, *, failed: bool) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._temporary.cleanup()

    def _start(self) -> Any:
        """The writer of a file with the settings in the place of any that is there."""
        from tensorboardX.event_file_writer import EventsWriter  # 0.1 s, which only this thread should pay
        from tensorboardX.summary import text

        self.close(failed=False)
        self._last = {}
        self.storage.delete_tree(self.folder)
        self._temporary = tempfile.TemporaryDirectory(prefix="icce-events-", ignore_cleanup_errors=True)
        self._place = Path(self.storage.full_path(self.folder) if self._local else self._temporary.name)
        self._place.mkdir(parents=True, exist_ok=True)
        # The writer below SummaryWriter: that one has a thread, which a full disk ends without a word.
        writer = EventsWriter(str(self._place / "events"))
        settings = "\n".join(f"    {name}: {value}" for name, value in self._run.params.items())
        writer.write_event(_message(text("settings", settings), 0, self._events[0].time.timestamp()))
        return writer


def _message(summary: Any, step: int, time: float) -> Any:
    import tensorboardX.proto.event_pb2 as messages

    made: Any = messages  # by protobuf, so that checkers do not see its classes
    return made.Event(summary=summary, step=step, wall_time=time)


class MLflow:
    """One run of an experiment, which is made if it is not there, on the server that MLFLOW_TRACKING_URI names.

    Credentials are MLflow's own variables. The run is found again by a tag; only what it has not got is sent.
    """

    def __init__(self, experiment: str) -> None:
        # Its default of 7 repetitions keeps a run waiting for four minutes where no server is.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        self.experiment = experiment

    def open(self, run: RunInfo, events: Sequence[Event]) -> None:
        """Find or make the run, and send what it has not got."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        present: set[tuple[str, int]] = set()
        with _mlflow_errors():
            self._client: Any = MlflowClient()
            experiment = self._client.get_experiment_by_name(self.experiment)
            where = experiment.experiment_id if experiment else self._client.create_experiment(self.experiment)
            runs = self._client.search_runs([where], filter_string=f"tags.`{MLFLOW_TAG}` = '{run.id}'")
            if runs:
                self._id = runs[0].info.run_id
                self._client.update_run(self._id, status="RUNNING")
                for key in runs[0].data.metrics:
                    present |= {(key, one.step) for one in self._client.get_metric_history(self._id, key)}
            else:
                self._id = self._client.create_run(where, run_name=run.name, tags={MLFLOW_TAG: run.id}).info.run_id
                params = [Param(name, str(value)) for name, value in run.params.items()]
                self._client.log_batch(self._id, params=params)
            self._send(events, present)

    def log(self, events: Sequence[Event]) -> None:
        """Send them."""
        with _mlflow_errors():
            self._send(events, set())

    def close(self, *, failed: bool) -> None:
        """The run's state is how the driver ended."""
        with _mlflow_errors():
            self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")

    def _send(self, events: Sequence[Event], present: set[tuple[str, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(tag, value, round(1000 * event.time.timestamp()), event.step)
            for event in events
            for tag, value in event.tagged()
            if (tag, event.step) not in present
        ]
        self._client.log_batch(self._id, metrics=metrics)


@contextmanager
def _mlflow_errors() -> Iterator[None]:
    """MLflow's errors as ours."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "its default place")
        text = (
            f"MLflow at {uri} cannot be reached: {error}; set MLFLOW_TRACKING_URI to a server that answers, or "
            "tracking.to without mlflow"
        )
        # MLflow's own messages have the address too, with a name and password where these stand in it.
        secret, at, _ = urlsplit(uri).netloc.rpartition("@")
        raise TrackingError(text.replace(secret + at, "").replace(secret, "...") if secret else text) from None


class WeightsAndBiases:
    """One run of a project; the key, the host and the mode (WANDB_MODE=offline) are W&B's own variables.

    Each stage has its own steps, so each has its own axis: `heads/step`.
    """

    def __init__(self, project: str) -> None:
        self.project = project

    def open(self, run: RunInfo, events: Sequence[Event]) -> None:
        """Take the run up; what was logged while another tracker was in use, and not this one, is sent now."""
        import wandb

        with _wandb_errors():
            mode = wandb.setup().settings.mode
            # Else it would ask for a key, in the midst of the display of the run.
            if mode in ("online", "shared") and not wandb.login(prompt=False):
                raise TrackingError(
                    "Weights & Biases has no key; run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline"
                )
            self._run: Any = wandb.init(
                project=self.project,
                id=run.id,
                name=run.name,
                resume="allow",
                config=dict(run.params),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )
        self._axes: set[str] = set()
        self.log(not_sent(events, "wandb"))

    def log(self, events: Sequence[Event]) -> None:
        """Hand them to W&B's own process, which sends them when it can."""
        with _wandb_errors():
            for event in events:
                values = dict(event.tagged())
                if not values:
                    continue
                axis = f"{event.stage}/{'' if event.event == 'step' else f'{event.event}/'}step"
                if axis not in self._axes:
                    self._axes.add(axis)
                    self._run.define_metric(axis, hidden=True)
                    self._run.define_metric(f"{axis.removesuffix('step')}*", step_metric=axis)
                self._run.log(values | {axis: event.step})

    def close(self, *, failed: bool) -> None:
        """Wait until its process has all."""
        with _wandb_errors():
            self._run.finish(exit_code=int(failed))


def not_sent(events: Sequence[Event], name: str) -> list[Event]:
    """Events of drivers that did not use this tracker."""
    missed, sent = [], False
    for event in events:
        if event.event == "begin":
            sent = name in event.to
        elif not sent:
            missed.append(event)
    return missed


@contextmanager
def _wandb_errors() -> Iterator[None]:
    """W&B's errors as ours."""
    import wandb

    try:
        yield
    except (wandb.Error, OSError) as error:
        raise TrackingError(
            f"Weights & Biases cannot be reached: {error}; set WANDB_MODE=offline, or tracking.to without wandb"
        ) from error
