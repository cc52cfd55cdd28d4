"""Made puzzles: seeded, counted exactly, rated."""
