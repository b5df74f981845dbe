"""Score a run against true labels, as a Ray job: what `icce evaluate` does.

Labels are read here and nowhere else. Figures go to the run's metrics.json and the table to the job's log.

Example: ray job submit --working-dir . -- python jobs/evaluate.py s3://bucket/run --labels s3://bucket/truth.csv
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("evaluate", __doc__)
