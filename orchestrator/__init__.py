"""Plan, place, run, record and compare trials of recursive puzzle solvers."""
