"""Stage `heads` as a Ray job: the clustering heads, and every image's labels under each.

The stages before it must be complete. Give the settings of the whole run: they belong to it.

Example: ray job submit --working-dir . -- python jobs/heads.py s3://bucket/images -k 1000 --out s3://bucket/run
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("run", __doc__, first="heads", last="heads")
