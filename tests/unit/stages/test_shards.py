"""Shards in groups for tasks."""

import pytest

from icce_ray.stages.shards import grouped


@pytest.mark.parametrize(
    ("shards", "tasks", "sizes"),
    [(0, 4, []), (3, 4, [1, 1, 1]), (16, 4, [1] * 16), (33, 4, [2] * 16 + [1]), (10_000, 4, [16] * 625)],
)
def test_groups_hold_every_shard_once_in_order(shards, tasks, sizes):
    groups = grouped(list(range(shards)), tasks)
    assert [len(group) for group in groups] == sizes
    assert [shard for group in groups for shard in group] == list(range(shards))
