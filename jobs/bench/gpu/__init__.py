"""The checks of `gpu_day.py`, by area; each runs on a GPU and, at tiny sizes, on a CPU."""
