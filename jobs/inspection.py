"""Stage `inspect` as a Ray job: the map, duplicates, outliers and what else the report shows.

The stages before it must be complete. Give the settings of the whole run: they belong to it.

Example: ray job submit --working-dir . -- python jobs/inspection.py s3://bucket/images -k 1000 --out s3://bucket/run
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("run", __doc__, first="inspect", last="inspect")
