"""Write the page about a run, as a Ray job: what `icce report` does.

Every run ends with its page; this renews it, with names of classes or new sweeps. It is kept with the run.

Example: ray job submit --working-dir . -- python jobs/report.py s3://bucket/run --names names.csv
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("report", __doc__)
