"""Cluster ensembles: the labels of many heads to one consensus (paper 3.2; Strehl & Ghosh, JMLR 2002).

`ensemble.consensus` is the whole; the parts are pure functions that work on shards, for callers whose labels do
not fit in one place: `cooccurrence` (add up) - `meta_clusters` - `assign` (each shard) -
`metrics.head_contingency` (add up) - `vote_weights` - `vote` (each shard) - `head_map` - `agreement` (each shard).
"""

from icce_ray.core.consensus.clusters import (
    Collapsed,
    check_labels,
    collapse,
    cooccurrence,
    head_offsets,
    jaccard,
)
from icce_ray.core.consensus.ensemble import METHODS, Consensus, consensus
from icce_ray.core.consensus.mcla import assign, meta_clusters
from icce_ray.core.consensus.partitioning import (
    ConsensusSizeError,
    GraphPartitioner,
    HypergraphPartitioner,
)
from icce_ray.core.consensus.votes import (
    Split,
    agreement,
    apply_split,
    head_map,
    improves,
    refine,
    split_for_unused,
    vote,
    vote_weights,
)

__all__ = [
    "METHODS",
    "Collapsed",
    "Consensus",
    "ConsensusSizeError",
    "GraphPartitioner",
    "HypergraphPartitioner",
    "Split",
    "agreement",
    "apply_split",
    "assign",
    "check_labels",
    "collapse",
    "consensus",
    "cooccurrence",
    "head_map",
    "head_offsets",
    "improves",
    "jaccard",
    "meta_clusters",
    "refine",
    "split_for_unused",
    "vote",
    "vote_weights",
]
