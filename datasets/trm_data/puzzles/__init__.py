"""Define puzzles independently of files: rules, symmetries, text forms."""
