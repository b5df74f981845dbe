"""Label new images with the classifier of a run, as a Ray job: what `icce predict` does.

Example: ray job submit --working-dir . -- python jobs/predict.py s3://bucket/run s3://bucket/new --out s3://bucket/new-out
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("predict", __doc__)
