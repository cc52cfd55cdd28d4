"""Recursive puzzle solvers: TRM, HRM and direct prediction; their training and evaluation. Knows nothing of sweeps."""
