"""Cases of head training that several processes work on together, and what one process of them reports."""

import dataclasses
import warnings

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from icce_ray.core.collectives import SINGLE_PROCESS, Distributed, current_workers
from icce_ray.core.neighbors import Limits
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer

N, DIM, K = 150, 12, 5
#: 7 heads and batches of 30 are uneven shares for 4 workers; 5 steps an epoch, 50 in all.
RECIPE = Recipe(
    heads=7,
    hidden=16,
    bottleneck=8,
    epochs=10,
    batch_size=30,
    warmup_epochs=2,
    learning_rate=5e-3,
    teacher_momentum=0.9,
)
#: Switches of the recipe. The first case is trained to the end, the others for an epoch.
VARIANTS = {
    "icce": {},
    "softmax": {"teacher": "softmax"},
    "standardize": {"input_norm": "standardize", "ce_weight": 0.0},
    "smoothing": {"smoothing_neighbors": 3},
    "estimated": {"cluster_prior": "estimated", "prior_strength": 0.8, "prior_momentum": 0.8},
    "one_round": {"sinkhorn_iterations": 1},
    "tiny_batch": {"batch_size": 3},  # with 4 workers one has no pair at all
}
PARALLELISMS = ("heads", "data")


def features():
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(K, DIM, generator=generator)
    return centres.repeat(N // K, 1) + torch.randn(N, DIM, generator=generator)


def build(workers=SINGLE_PROCESS, parallelism="heads", chunk=3, precision="auto", compiled=False, **switches):
    """A trainer whose heads are in several chunks, of several sizes, on every worker but those with few."""
    rows = features()
    lists = mine(rows, Limits(0.5, 3, 20))
    recipe = dataclasses.replace(RECIPE, **switches)
    options = {"parallelism": parallelism, "chunk": chunk, "precision": precision, "compiled": compiled}
    return HeadTrainer(
        rows, lists, n_clusters=K, recipe=recipe, seed=4, workers=workers, execution=Execution(**options)
    )


def losses(trainer, epochs):
    """Losses of epochs, [epochs, 2, heads]."""
    found = [trainer.run_epoch() for _ in range(epochs)]
    return torch.stack([torch.stack([one.temi, one.cross_entropy]) for one in found])


class Counting(Distributed):
    """Counts exchanges, and the bytes that this worker gives to them."""

    def __init__(self):
        super().__init__()
        self.count = torch.zeros(2, dtype=torch.int64)

    def all_reduce(self, tensor):
        self._add(tensor.numel(), tensor)
        super().all_reduce(tensor)

    def start_all_reduce(self, tensor):
        self._add(tensor.numel(), tensor)
        return super().start_all_reduce(tensor)

    def all_gather(self, tensor, counts):
        self._add(tensor[:1].numel() * max(counts), tensor)
        return super().all_gather(tensor, counts)

    def _add(self, entries, tensor):
        self.count += torch.tensor([1, entries * tensor.element_size()])


def run_cases(workers, start):
    """Everything to compare, by name; `start` is the state of one process after an epoch, to go on from."""
    found = {}
    for parallelism in PARALLELISMS if workers.size > 1 else ["alone"]:
        for name, switches in VARIANTS.items():
            trainer = build(workers, parallelism, **switches)
            key, before = f"{parallelism}.{name}", getattr(workers, "count", torch.zeros(2)).clone()
            found[f"{key}.losses"] = losses(trainer, RECIPE.epochs if name == "icce" else 1)
            if workers.size > 1:
                found[f"{key}.exchanged"] = workers.count - before
            found[f"{key}.labels"] = trainer.labels(trainer.features)
            if name == "icce":
                found |= {f"{key}.state.{part}": tensor for part, tensor in trainer.state().items()}
        if start is not None:
            restored = build(workers, parallelism, chunk=2)
            restored.restore(start)
            restored.check_same_epoch()
            found[f"{parallelism}.restored.losses"] = losses(restored, 2)
    return found


def work(rank, size, path):
    """Run all cases as one of `size` workers over gloo; worker 0 writes what it found as safetensors to `path`."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}.group", rank=rank, world_size=size)
    assert isinstance(current_workers(), Distributed)
    workers = Counting()
    assert (workers.rank, workers.size) == (rank, size)
    first = build()
    losses(first, 1)
    found = run_cases(workers, first.state())
    odd = build(workers)
    odd.epoch = rank
    try:
        odd.check_same_epoch()
    except RuntimeError as error:
        found["error"] = torch.tensor(list(str(error).encode()), dtype=torch.uint8)
    if rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)
    dist.destroy_process_group()
