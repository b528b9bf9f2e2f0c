"""Execute runs: one run, local workers, Slurm, the result store, status, and audits."""
