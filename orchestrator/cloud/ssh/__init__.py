"""Run deployments on machines that `ssh` reaches: a rented box, a workstation of the lab."""
