"""Execute runs on a Slurm cluster: profiles, job arrays, submission, jobs, status and cancellation."""
