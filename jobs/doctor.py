"""Look whether every node of the cluster has what a run needs, as a Ray job: what `icce doctor --cluster` does.

A line for each check of each node, with a remedy beside each FAULT; the job fails if there is any.

Example: ray job submit --working-dir . -- python jobs/doctor.py --out s3://bucket/run
"""

from icce_ray.cli.main import job

if __name__ == "__main__":
    job("doctor", __doc__, cluster=True)
