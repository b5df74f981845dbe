"""A predictor as ONNX or TorchScript files: graphs that run without this package, and without Python."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.jit._trace import TracerWarning

from icce_ray.export.predictor import Predictor, Trained
from icce_ray.export.resizing import resize
from icce_ray.store import RunError

#: The oldest set of ONNX operators that holds all of these graphs.
OPSET = 18
#: Largest difference of a probability between what was written and torch.
TOLERANCE = 1e-4
#: Names of the graphs without their ending, and of what they take.
HEAD, WHOLE = "head", "predictor"
_INPUTS = {HEAD: "features", WHOLE: "pixels"}


def write_onnx(trained: Trained, folder: Path) -> None:
    """`head.onnx`: features float32 [B, W] to probabilities float32 [B, K]; `predictor.onnx`: the same of pixels.

    These are uint8 [B, H, W, 3]; a run of features has no such graph. ONNX Runtime is asked whether it finds what torch
    does. Raises RunError where it does not, or it or the exporter is not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise RunError(
            f"--format onnx needs {error.name}, which is not there; pip install 'icce-ray[export]'"
        ) from error
    for name, module, example in _graphs(trained):
        path, given = folder / f"{name}.onnx", _INPUTS[name]
        _program(module, torch.from_numpy(example), given).save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        _check(path.name, module, example, np.asarray(session.run(None, {given: example})[0]))


def _program(module: torch.nn.Module, example: torch.Tensor, given: str) -> torch.onnx.ONNXProgram:
    """A module in ONNX, of any size of all dimensions but the last. Raises RunError for one that torch cannot write."""
    free = dict.fromkeys(range(example.ndim - 1), torch.export.Dim.DYNAMIC)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                torch.export.export(module, (example,), dynamic_shapes=(free,)),
                dynamo=True,
                opset_version=OPSET,
                input_names=[given],
                output_names=["probabilities"],
                verbose=False,
            )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"torch cannot write this backbone as ONNX ({reason}); use --format torchscript") from error
    assert program is not None, "it is returned where no file is named"
    return program


def write_torchscript(trained: Trained, folder: Path) -> None:
    """`head.pt` and `predictor.pt`, for torch.jit.load: inputs and outputs as of `write_onnx`. Raises RunError."""
    for name, module, example in _graphs(trained):
        path, given = folder / f"{name}.pt", torch.from_numpy(example)
        with quiet(), torch.no_grad():
            if isinstance(module, Predictor):
                module.resize = torch.jit.script(resize)  # tracing alone would keep the sides of the example
            torch.jit.save(torch.jit.trace(module, (given,), check_trace=False), path)
            found = torch.jit.load(path)(given)
        _check(path.name, module, example, found.numpy())


def _graphs(trained: Trained) -> Iterator[tuple[str, torch.nn.Module, np.ndarray]]:
    """(name, module, an input of two rows) of each graph; the pictures are no squares, and not of the model's size."""
    draw = np.random.default_rng(0)
    yield HEAD, trained.head, draw.normal(size=(2, trained.head.weight.shape[1])).astype(np.float32)
    with quiet():
        predictor = trained.predictor()
    if predictor is not None:
        shape = (2, predictor.side + 7, predictor.side + 31, 3)
        yield WHOLE, predictor, draw.integers(0, 256, shape, dtype=np.uint8)


@torch.no_grad()
def _check(name: str, module: torch.nn.Module, example: np.ndarray, found: np.ndarray) -> None:
    difference = float(np.abs(found - module(torch.from_numpy(example)).numpy()).max())
    if not difference <= TOLERANCE:
        raise RunError(
            f"{name} gives probabilities that differ by {difference:.2g} from torch's (limit: {TOLERANCE:g}); use the "
            "tested versions of torch, onnxscript and onnxruntime (constraints.txt), or another --format"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of themselves: that torch deprecates TorchScript, that torchvision is not there."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "transformers")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, TracerWarning):
            warnings.simplefilter("ignore", category)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
