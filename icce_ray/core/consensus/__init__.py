"""Cluster ensembles: the labels of many heads to one consensus (paper 3.2; Strehl & Ghosh, JMLR 2002)."""

from icce_ray.core.consensus.clusters import ConsensusSizeError, Partitioners
from icce_ray.core.consensus.ensemble import METHODS, Consensus, consensus

__all__ = ["METHODS", "Consensus", "ConsensusSizeError", "Partitioners", "consensus"]
