"""Weights & Biases: one of its runs a run; the key, the host and the mode (WANDB_MODE=offline) are its own variables'.

Each stage has its own steps, so each has its own axis: `heads/step`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from icce_ray.adapters.tracking.lines import Line
from icce_ray.adapters.tracking.sinks import RunNote, TrackingError


class WeightsAndBiases:
    """Tells one run of a project."""

    def __init__(self, project: str) -> None:
        self.project = project

    def open(self, run: RunNote, lines: Sequence[Line]) -> None:
        """Take the run up; what was told while another tracker was, and not this one, is sent now."""
        import wandb

        with _told():
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
        self.tell(_untold(lines))

    def tell(self, lines: Sequence[Line]) -> None:
        """Hand them to its own process, which sends them when it can."""
        with _told():
            for line in lines:
                values = dict(line.tagged())
                if not values:
                    continue
                axis = f"{line.stage}/{'' if line.event == 'step' else f'{line.event}/'}step"
                if axis not in self._axes:
                    self._axes.add(axis)
                    self._run.define_metric(axis, hidden=True)
                    self._run.define_metric(f"{axis.removesuffix('step')}*", step_metric=axis)
                self._run.log(values | {axis: line.step})

    def close(self, *, failed: bool) -> None:
        """Wait until its process has all."""
        with _told():
            self._run.finish(exit_code=int(failed))


def _untold(lines: Sequence[Line]) -> list[Line]:
    """Lines of drivers that did not tell this tracker."""
    found, told = [], False
    for line in lines:
        if line.event == "begin":
            told = "wandb" in line.to
        elif not told:
            found.append(line)
    return found


@contextmanager
def _told() -> Iterator[None]:
    """Its errors as ours."""
    import wandb

    try:
        yield
    except (wandb.Error, OSError) as error:
        raise TrackingError(
            f"Weights & Biases cannot be told: {error}; set WANDB_MODE=offline, or tracking.to without wandb"
        ) from error
