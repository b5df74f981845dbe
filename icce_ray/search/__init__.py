"""Other engines for what the core defines: FAISS for neighbours."""
