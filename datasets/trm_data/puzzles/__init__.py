"""Puzzles without files: rules, symmetries, text forms."""
