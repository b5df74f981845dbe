"""Ray Train's trainer as the stage `heads` needs it: Ctrl-C stays ours, and an error of a worker stays what it was."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import Result, WorkerGroupError
from ray.train.torch import TorchTrainer

#: Seconds that an interrupted driver waits until the workers have ended.
ABORT_SECONDS = 10.0


class HeadsTrainer(TorchTrainer):
    """`fit` ends with KeyboardInterrupt when it is interrupted, and leaves the handlers of signals as they were.

    Ray Train's own handler of SIGINT takes the first two as a wish, at the third exits with 0, and stays for good.
    """

    _controller: Any = None

    def fit(self) -> Result:
        """As of Ray Train; what a worker raised is raised as it was."""
        here = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        try:
            return super().fit()
        except WorkerGroupError as error:
            raise _of_worker(error) from error
        except KeyboardInterrupt:
            if self._controller is not None:
                with contextlib.suppress(RayActorError, GetTimeoutError):  # the controller ends with its workers
                    ray.get(self._controller.abort.remote(), timeout=ABORT_SECONDS)
            raise
        finally:
            if here and before is not None:
                signal.signal(signal.SIGINT, before)

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller


def _of_worker(error: WorkerGroupError) -> Exception:
    """What the first worker that failed raised; the whole error where that is not known."""
    failures = [failure for _, failure in sorted(error.worker_failures.items())]
    causes = [getattr(failure, "cause", failure) for failure in failures]
    return next((cause for cause in causes if isinstance(cause, Exception)), error)
