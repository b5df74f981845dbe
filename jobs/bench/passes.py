"""Bytes and kernels of one training step of all heads, counted from what torch.compile makes of it for a GPU.

    python jobs/bench/passes.py [--heads 50 --dim 2048 --clusters 1000 --batch 1024] [--precision float32] [--eager]

Counted, not measured, and without a GPU: the step is traced on the CPU with few heads, and Inductor decides about each
graph as on an H200, which is made up; kernels are what its scheduler fused. A kernel moves every tensor that it reads
or writes once, as Inductor itself counts. What runs outside the graphs is counted operation by operation, and so is
everything with --eager. Bytes and kernels of 2 and of 4 heads give those of --heads; the update is `UPDATE_BYTES`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import types
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch._dynamo.device_interface as interface
from measuring import header, row
from torch import Tensor, fx
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._inductor import compile_fx, scheduler
from torch._inductor.debug import DebugContext
from torch._inductor.fx_passes import reinplace
from torch._inductor.fx_passes.post_grad import view_to_reshape
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from icce_ray.core.heads import UPDATE_BYTES, HeadCost
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.training import HeadTrainer

#: Operations without a kernel.
NOTHING_MOVED = {"empty", "empty_like", "empty_strided", "detach", "alias", "device", "_unsafe_view"}
CUDA = torch.device("cuda:0")
BANDWIDTH = 4.8e12  # of an H200, B/s
CARD = types.SimpleNamespace(
    name="H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65_536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    total_memory=141 * 2**30,
    gcnArchName="",
)


class Counting(TorchDispatchMode):
    """Counts by part of the step: kernels, bytes, and of these the bytes of tensors that have K clusters and rows."""

    def __init__(self, clusters: int, rows: int) -> None:
        super().__init__()
        self.found: dict[str, Counter[str]] = defaultdict(Counter)
        self.clusters, self.least, self.inside, self.graphs = clusters, clusters * rows, False, 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """torch.compile is to compile although this counts."""
        return True

    def add(self, part: str, sizes: Sequence[tuple[Sequence[int], int]]) -> None:
        """One kernel that moves tensors of these (shape, bytes); without any it is none."""
        big = [moved for shape, moved in sizes if shape[-1:] == [self.clusters] and math.prod(shape) >= self.least]
        self.found[part].update(kernels=bool(sizes), bytes=sum(moved for _, moved in sizes), logits=sum(big))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operation outside the graphs."""
        out = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor)]
        name = func.overloadpacket.__name__
        if not (
            self.inside or func.is_view or "empty" in name or name in ("detach", "alias", "device", "_unsafe_view")
        ):
            self.add("outside graphs", [(list(one.shape), one.numel() * one.element_size()) for one in tensors])
        return out

    def compile(self, graph: fx.GraphModule, inputs: Sequence[Any], **_: Any) -> Any:
        """In Inductor's place: count the kernels of a graph on the GPU, return the graph to run as it is."""
        self.inside, self.graphs = True, self.graphs + 1
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, V.set_fake_mode(mode):
            lowered = self._lowered(*_on_gpu(copy.deepcopy(graph), inputs))
            for node in lowered.scheduler.nodes:
                with V.set_graph_handler(lowered):
                    sizes = [
                        (_shape(lowered, name), moved)
                        for way in ((True, False), (False, True))
                        for name, moved in node.get_read_write_buffer_accesses(*way).items()
                    ]
                self.add(f"graph {self.graphs}", sizes)
        self.inside = False
        return make_boxed_func(partial(self._run, graph))

    @staticmethod
    def _lowered(graph: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        view_to_reshape(graph)
        compile_fx._recursive_post_grad_passes(graph, is_inference=False)
        compile_fx.record_original_output_strides(graph)
        lowered = GraphLowering(graph)
        with (
            V.set_debug_handler(DebugContext()),
            V.set_graph_handler(lowered),
            V.set_real_inputs([]),
        ):
            lowered.run(*inputs)
            lowered._update_scheduler()
        return lowered

    def _run(self, graph: fx.GraphModule, *inputs: Any) -> Any:
        self.inside = True
        try:
            return graph(*inputs)
        finally:
            self.inside = False


def _shape(graph: Any, name: str) -> list[int]:
    return [int(size) for size in (graph.name_to_buffer.get(name) or graph.graph_inputs[name]).get_size()]


def _on_gpu(graph: fx.GraphModule, inputs: Sequence[Any]) -> tuple[fx.GraphModule, list[Any]]:
    """A graph and its inputs as if they had been traced on a GPU."""

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)

    for node in graph.graph.nodes:
        node.meta = {
            key: tree_map_only(Tensor, moved, value) if key == "val" else value for key, value in node.meta.items()
        }
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": CUDA}
    return graph, tree_map_only(Tensor, moved, list(inputs))


@contextlib.contextmanager
def made_up_card() -> Iterator[None]:
    """What Inductor asks about the GPU it compiles for, answered."""
    cuda, worker = interface.CudaInterface, interface.CudaInterface.Worker
    answers: list[tuple[Any, str, Any]] = [
        *((place, "get_device_properties", CARD) for place in (torch.cuda, cuda, worker)),
        *((place, "current_device", 0) for place in (torch.cuda, cuda, worker)),
        *((place, "device_count", 1) for place in (torch.cuda, cuda)),
        (cuda, "is_available", True),
        (cuda, "get_compute_capability", 90),
        (torch.cuda, "get_device_capability", (9, 0)),
        (scheduler, "has_triton", True),
        # It checks shapes by a copy, which a tensor of no GPU cannot do.
        (reinplace, "_inplace_generalized_scatter", None),
    ]
    with contextlib.ExitStack() as stack:
        for place, name, answer in answers:
            returns = {"side_effect": lambda into, *_: into} if answer is None else {"return_value": answer}
            stack.enter_context(mock.patch.object(place, name, **returns))
        yield


def counted(given: argparse.Namespace, heads: int) -> dict[str, Counter[str]]:
    """Counts of the parts of one step of so many heads, in one chunk."""
    n, generator = 4 * given.batch, torch.Generator().manual_seed(0)
    ids = torch.randint(n, (8 * n,), generator=generator)
    counting = Counting(given.clusters, heads * given.batch)
    torch.compiler.reset()
    backend = partial(compile_fx.compile_fx, inner_compile=counting.compile)
    with mock.patch.object(torch, "compile", partial(torch.compile, backend=backend)):
        trainer = HeadTrainer(
            torch.randn(n, given.dim, generator=generator).half(),
            Neighbors(torch.arange(n + 1) * 8, ids, torch.empty(0)),
            n_clusters=given.clusters,
            recipe=Recipe(heads=heads, batch_size=given.batch),
            seed=0,
            execution=Execution(precision=given.precision, compiled=not given.eager, chunk=heads),
        )
        anchors = torch.arange(given.batch)
        partners = trainer.draw(anchors, generator)
        with mock.patch.object(trainer.networks, "update"), counting:
            trainer.step(anchors, partners, 1)
    return counting.found


def main() -> None:
    """Count and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"heads": 50, "dim": 2048, "clusters": 1000, "batch": 1024}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--eager", action="store_true")
    given = parser.parse_args()
    with made_up_card():
        few, more = counted(given, 2), counted(given, 4)
    cost = HeadCost(Recipe(heads=given.heads), given.dim, given.clusters, given.batch)
    width = (2 if given.precision == "bfloat16" else 4) * cost.rows * given.clusters * given.heads
    total: Counter[str] = Counter()
    header("part", "kernels", f"passes over the logits in {given.precision}", "GB over logits", "GB in all")
    parts = {
        part: Counter({key: one[key] + (more[part][key] - one[key]) * (given.heads - 2) // 2 for key in one})
        for part, one in few.items()
    }
    parts["update"] = Counter(bytes=UPDATE_BYTES * cost.parameters * given.heads)
    for part, one in parts.items():
        _row(part, one, width)
        total.update(one)
    _row("a step", total, width)
    print(f"\n{vars(given)}: {1e3 * total['bytes'] / BANDWIDTH:.2f} ms at {BANDWIDTH / 1e12} TB/s")


def _row(part: str, one: Counter[str], width: int) -> None:
    kernels = str(one["kernels"] or "")
    row(part, kernels, f"{one['logits'] / width:.1f}", f"{one['logits'] / 1e9:.2f}", f"{one['bytes'] / 1e9:.2f}")


if __name__ == "__main__":
    main()
