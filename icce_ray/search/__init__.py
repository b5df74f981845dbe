"""Engines of others for what the core defines: FAISS for neighbours, METIS and Mt-KaHyPar for cuts."""
