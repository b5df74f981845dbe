"""Many settings over one embedding, as a Ray job: what `icce sweep` does, with trials on all nodes.

The run must be embedded (`jobs/embed.py` and `jobs/sample.py`). After a failure submit the same again: trials that
ended are kept. The table is in the job's log, and with the plot below sweeps/NAME/ of the run.

Example: ray job submit --working-dir . -- python jobs/sweep.py s3://bucket/run --param neighbors.threshold=0.1:1.0:0.1
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("sweep", __doc__)
