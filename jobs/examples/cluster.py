"""A run on a Ray cluster, submitted from Python: what `ray job submit` does.

    python jobs/examples/cluster.py http://localhost:8265 s3://bucket/images -k 1000 --out s3://bucket/run

The address is the job server's; the rest is for jobs/run.py, with URIs that every node reaches. A cluster that asks for
a token takes it from RAY_AUTH_MODE=token and RAY_AUTH_TOKEN. Call it where the checkout of icce_ray is.
"""

import shlex
import sys
import time

from ray.job_submission import JobStatus, JobSubmissionClient


def main(address: str, *arguments: str) -> int:
    """Submit, show the log as it grows, and give 0 where the job succeeded."""
    client = JobSubmissionClient(address)
    entrypoint = shlex.join(["python", "jobs/run.py", *arguments])
    job = client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": "."})
    print(f"{job}: {entrypoint}", flush=True)
    shown, ended = 0, False
    while not ended:
        ended = client.get_job_status(job).is_terminal()
        log = client.get_job_logs(job)
        print(log[shown:], end="", flush=True)
        shown = len(log)
        time.sleep(0 if ended else 1)
    return 0 if client.get_job_status(job) == JobStatus.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
