"""Records of sweeps and trials, the source of truth."""
