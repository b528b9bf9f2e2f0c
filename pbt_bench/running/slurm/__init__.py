"""Many runs on a Slurm cluster: profile, packing, submission, what runs on a node, Slurm's view, cancelling."""
