"""What torch can compute on: GPUs that a scheduler or a driver announces may still be none for torch.

torch is imported by those who ask only: the answers travel to processes that have no other use for it.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Side of the matrices of the trial product.
_SIDE = 256


@dataclass(frozen=True)
class Gpu:
    """One GPU that torch has computed on."""

    name: str
    memory: int
    """Bytes in all."""
    capability: tuple[int, int]


@dataclass(frozen=True)
class Gpus:
    """All that this process sees; either there is at least one and torch computes right on each, or `fault` is set."""

    gpus: tuple[Gpu, ...] = ()
    fault: str = ""
    """Why torch cannot use them, and the remedy."""

    @property
    def memory(self) -> int:
        """Bytes of the smallest; 0 where there is none."""
        return min((gpu.memory for gpu in self.gpus), default=0)


def probe_gpus() -> Gpus:
    """Start CUDA and compute a small product on every GPU that this process sees, in both precisions of the heads.

    Raises nothing: what is wrong is the `fault`. This process holds some hundred MB on each GPU from then on.
    """
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return Gpus(
            fault=f"torch {torch.__version__} is built for CPUs only; install its build for CUDA: "
            'pip install "icce-ray[gpu]" from PyPI, not from the index of CPU builds'
        )
    try:
        torch.cuda.init()
        found = tuple(_computed(number) for number in range(torch.cuda.device_count()))
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return Gpus(
            fault=f"torch {torch.__version__} for CUDA {torch.version.cuda} cannot compute on them: {first_line(error)}"
            "; install a driver that serves this CUDA, or a torch that serves the driver"
        )
    if not found:
        return Gpus(
            fault="torch sees 0 GPUs; start containers with them (docker run --gpus all), and look at "
            "CUDA_VISIBLE_DEVICES"
        )
    return Gpus(found)


def _computed(number: int) -> Gpu:
    """A GPU on which products of ones are right. Raises RuntimeError if they are not."""
    import torch

    device = torch.device("cuda", number)
    for dtype in (torch.float32, torch.bfloat16):
        ones = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
        entry = float((ones @ ones).float().mean())
        if entry != _SIDE:
            raise RuntimeError(f"GPU {number} computes {entry:g} where {_SIDE} is right ({dtype})")
    facts = torch.cuda.get_device_properties(number)
    return Gpu(name=facts.name, memory=facts.total_memory, capability=(facts.major, facts.minor))


def first_line(error: BaseException) -> str:
    """The first line of an error that says anything, without the full stop at its end; its kind where none does."""
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
