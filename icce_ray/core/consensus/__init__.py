"""Cluster ensembles: the labels of many heads to one consensus (paper 3.2; Strehl & Ghosh, JMLR 2002).

`ensemble.consensus` is the whole in memory. `rows.HeadRows` is what MCLA and the votes ask of labels that do not lie
in one place: tables of two heads and the assignment of a shard (`mcla`), its votes (`votes.vote`), and what each head
says of a labelling (`tally`).
"""

from icce_ray.core.consensus.ensemble import METHODS, Consensus, consensus
from icce_ray.core.consensus.partitioning import ConsensusSizeError, Partitioners

__all__ = ["METHODS", "Consensus", "ConsensusSizeError", "Partitioners", "consensus"]
