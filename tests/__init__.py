"""Tests of the packages, in folders named after them."""

import os

# Two workers share two cores: with a thread per core in each of them, threads mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
