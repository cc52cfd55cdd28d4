"""The Python API: plan, run and train, with progress and tracking."""
