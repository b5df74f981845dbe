"""Workers of torch.distributed: a group of one, in this process; groups of several are in tests/numerics."""

import pytest
import torch
import torch.distributed as dist

from icce_ray.adapters.collectives import Distributed, joined
from icce_ray.core.collectives import ALONE


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_without_a_group_there_is_one_process():
    assert joined() is ALONE


def test_a_group_of_one_exchanges_nothing(group):
    assert joined() is ALONE


def test_bytes_and_exchanges_are_counted_by_purpose(group):
    workers = Distributed()
    assert (workers.rank, workers.size) == (0, 1)
    tensor = torch.arange(6.0).view(2, 3)
    workers.sum(tensor, "one")
    workers.sum_later(tensor[0], "one")()
    gathered = workers.gather(tensor.half().T, [3], "two")
    assert torch.equal(gathered, tensor.half().T)
    assert dict(workers.exchanged) == {"one": 4 * 6 + 4 * 3, "two": 2 * 6}
    assert dict(workers.calls) == {"one": 2, "two": 1}
