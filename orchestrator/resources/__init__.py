"""Describe hardware: what is available, what a trial needs and what it costs."""
