"""Head training by 4 processes over gloo against one process: losses, labels, states, bytes exchanged.

The processes start once, from one that has imported torch, and run all cases of `parallel_cases.py`.
"""

import multiprocessing

import pytest
import torch
from parallel_cases import DIM, PARALLELISMS, RECIPE, VARIANTS, K, N, build, losses, run_cases, work
from safetensors.torch import load_file

from icce_ray.core.collectives import SINGLE_PROCESS, shares
from icce_ray.core.heads import head_shapes
from tests.failures import fails

SIZE = 4  # uneven shares of the heads and of a batch; of the smallest batch one has none
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def alone():
    """What one process finds."""
    return run_cases(SINGLE_PROCESS, None)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What they found together."""
    path = tmp_path_factory.mktemp("parallel") / "found"
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["icce_ray.core.training"])
    ranks = [start.Process(target=work, args=(rank, SIZE, path)) for rank in range(SIZE)]
    try:
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(timeout=300)
    finally:
        for process in ranks:
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * SIZE
    return load_file(path)


every = pytest.mark.parametrize("parallelism", PARALLELISMS)


@every
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_labels_of_one_process(alone, found, parallelism, variant):
    key = f"{parallelism}.{variant}"
    torch.testing.assert_close(
        found[f"{key}.losses"], alone[f"alone.{variant}.losses"], rtol=RELATIVE, atol=RELATIVE / 100
    )
    assert torch.equal(found[f"{key}.labels"], alone[f"alone.{variant}.labels"])


def test_the_cases_learn(alone):
    """Losses that hardly move would agree whatever the workers did."""
    steps = RECIPE.epochs * (N // RECIPE.batch_size)
    first, last = alone["alone.icce.losses"][[0, -1], 0]
    assert steps == 50
    assert (last < first - 0.4).all()
    assert len({tuple(column) for column in alone["alone.icce.labels"].T.tolist()}) > 1  # heads differ


@every
def test_the_state_is_that_of_all_heads(alone, found, parallelism):
    """Whoever wrote it: one process goes on from it as from its own."""
    prefix, own = f"{parallelism}.icce.state.", "alone.icce.state."
    states = [
        {name.removeprefix(start): tensor for name, tensor in results.items() if name.startswith(start)}
        for results, start in ((found, prefix), (alone, own))
    ]
    assert {name: tensor.shape for name, tensor in states[0].items()} == {
        name: tensor.shape for name, tensor in states[1].items()
    }
    further = []
    for state in states:
        trainer = build(chunk=4)
        trainer.restore(state)
        further.append(losses(trainer, 2))
    torch.testing.assert_close(further[0], further[1], rtol=RELATIVE, atol=RELATIVE / 100)


@every
def test_workers_go_on_from_the_state_of_one_process(alone, found, parallelism):
    expected = alone["alone.icce.losses"][1:3]
    torch.testing.assert_close(found[f"{parallelism}.restored.losses"], expected, rtol=RELATIVE, atol=1e-7)


def test_workers_at_different_epochs_say_so(found):
    message = bytes(found["error"].tolist()).decode()
    assert message == f"workers are at epochs {list(range(SIZE))}; restore all of them from one state"


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytes_that_workers_with_shares_of_the_heads_exchange(found, variant):
    """B floats a step, and once an epoch two losses a head; the others pad theirs to the largest share."""
    batch, steps, epochs = sizes(variant)
    most = shares(RECIPE.heads, SIZE)[0]
    expected = [steps + epochs, 4 * batch * steps + 4 * 2 * most * epochs]
    assert found[f"heads.{variant}.exchanged"].tolist() == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytes_that_workers_with_shares_of_the_batch_exchange(found, variant):
    """Gradients of all heads, one exchange a chunk; one float a head and cluster a round of Sinkhorn, one more for
    the class marginal; once an epoch two losses a head."""
    _, steps, epochs = sizes(variant)
    weights = sum(torch.Size(shape).numel() for shape in head_shapes(DIM, RECIPE.hidden, RECIPE.bottleneck, K).values())
    switches, heads = VARIANTS[variant], RECIPE.heads
    rounds = 0 if switches.get("teacher") == "softmax" else switches.get("sinkhorn_iterations", 3)
    exchanges = 3 * steps + rounds * steps + steps + epochs
    floats = weights * heads * steps + heads * K * (rounds + 1) * steps + 2 * heads * epochs
    assert found[f"data.{variant}.exchanged"].tolist() == [exchanges, 4 * floats]


def sizes(variant):
    """Batch, steps and epochs that a case was trained for."""
    batch = VARIANTS[variant].get("batch_size", RECIPE.batch_size)
    epochs = RECIPE.epochs if variant == "icce" else 1
    return batch, epochs * (N // batch), epochs


class Worker:
    """One worker of several that exchanges nothing."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


def test_a_worker_without_a_head_is_an_error():
    with fails(ValueError, "8 workers", "7 heads", "at most 7"):
        build(Worker(0, 8), "heads")
