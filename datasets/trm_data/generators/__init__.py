"""Generate puzzles: seeded, exactly counted, rated."""
