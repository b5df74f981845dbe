"""Stage `embed` as a Ray job: images to frozen features.

Lists the source first where the run does not have its list yet. Give the settings of the whole run: they belong to it.

Example: ray job submit --working-dir . -- python jobs/embed.py s3://bucket/images -k 1000 --out s3://bucket/run
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("run", __doc__, first="embed", last="embed")
