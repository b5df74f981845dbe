"""Make a new version of a run by decisions about its classes, as a Ray job: what `icce refine` does.

Example: ray job submit --working-dir . -- python jobs/refine.py s3://bucket/run --decisions decisions.json
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("refine", __doc__)
