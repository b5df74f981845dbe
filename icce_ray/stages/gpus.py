"""Whether torch can use the GPUs that Ray announces: each node is asked once, before anything is given to its GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from icce_ray.core.gpus import Gpus, probe_gpus

#: Seconds in which a node has to answer: a process of Python's and torch's start, on a machine that may be busy.
ANSWER_SECONDS = 300.0
#: By the id of the node: a GPU that computes once is taken to go on doing so.
_answers: dict[str, Gpus] = {}


# It asks for no GPU, so as not to wait until others have done with theirs; to such a task Ray shows all that the node
# has. With the task its process ends, and what it holds on the GPUs.
@ray.remote(num_cpus=0, max_calls=1)
def _probe() -> Gpus:
    return probe_gpus()


def on_node(task: Any, node_id: str, **options: Any) -> Any:
    """A remote function for this node and no other."""
    return task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False), **options)


def answers(tasks: Mapping[str, Any], seconds: float, failed: Callable[[str], Any]) -> dict[str, Any]:
    """Results of tasks by the id of their node, and `failed` of the reason where there is none in time."""
    ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=seconds)
    found = {}
    for node, task in tasks.items():
        try:
            found[node] = ray.get(task, timeout=0)
        except GetTimeoutError:
            found[node] = failed(f"no answer within {seconds:g} s")
        except RayError as error:
            found[node] = failed(str(error).strip().splitlines()[-1])
    return found


def gpus_of(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Gpus]:
    """What torch can use, by address, of the nodes of `ray.nodes()` with GPUs; each node is asked once."""
    wanted = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Resources"].get("GPU", 0) >= 1}
    tasks = {node: on_node(_probe, node).remote() for node in wanted if node not in _answers}
    if tasks:
        _answers.update(answers(tasks, ANSWER_SECONDS, lambda reason: Gpus(fault=f"the node gave {reason}")))
    return {address: _answers[node] for node, address in wanted.items()}
