"""Read and write the records of sweeps and trials, the source of truth."""
