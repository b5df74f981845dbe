"""Embed and label what is new in a growing collection, as a Ray job: what `icce update` does.

Example: ray job submit --working-dir . -- python jobs/update.py s3://bucket/run s3://bucket/photos
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("update", __doc__)
