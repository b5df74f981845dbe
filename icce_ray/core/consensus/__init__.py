"""Cluster ensembles: the labels of many heads to one consensus (paper 3.2; Strehl & Ghosh, JMLR 2002).

`ensemble.consensus` is the whole in memory. `rows.HeadRows` is what MCLA and the votes ask of labels that do not lie
in one place: tables of two heads (`overlaps`), assignment and votes of a shard (`mcla.assign`, `votes.vote`), and what
each head says of a labelling (`tally`).
"""

from icce_ray.core.consensus.clusters import Collapsed, check_labels, collapse, head_offsets
from icce_ray.core.consensus.ensemble import METHODS, Consensus, consensus
from icce_ray.core.consensus.partitioning import (
    ConsensusSizeError,
    GraphPartitioner,
    HypergraphPartitioner,
)

__all__ = [
    "METHODS",
    "Collapsed",
    "Consensus",
    "ConsensusSizeError",
    "GraphPartitioner",
    "HypergraphPartitioner",
    "check_labels",
    "collapse",
    "consensus",
    "head_offsets",
]
