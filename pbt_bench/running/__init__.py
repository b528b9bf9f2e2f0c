"""Many runs: execute one, local workers, the result store, progress."""
