"""The method: torch, numpy and scipy only. No Ray, no files, no settings objects."""
