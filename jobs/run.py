"""The whole run as a Ray job: what `icce run` does, on the cluster that it is submitted to.

Source and run are URIs that every node reaches. After a failure submit the same again: complete stages are skipped.

Example: ray job submit --working-dir . -- python jobs/run.py s3://bucket/images -k 1000 --out s3://bucket/run
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("run", __doc__)
