"""Rent machines for a sweep: configuration, rendered files, AWS resources."""
