"""Stage `consensus` as a Ray job: one labelling from the labels of all heads.

The stages before it must be complete. Give the settings of the whole run: they belong to it.

Example: ray job submit --working-dir . -- python jobs/consensus.py s3://bucket/images -k 1000 --out s3://bucket/run
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("run", __doc__, first="consensus", last="consensus")
