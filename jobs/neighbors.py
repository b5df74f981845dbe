"""Stage `neighbors` as a Ray job: features to adaptive neighbour lists.

The stages before it must be complete. Give the settings of the whole run: they belong to it.

Example: ray job submit --working-dir . -- python jobs/neighbors.py s3://bucket/images -k 1000 --out s3://bucket/run
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("run", __doc__, first="neighbors", last="neighbors")
