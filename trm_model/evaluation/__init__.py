"""Run, score and vote with trained models."""
