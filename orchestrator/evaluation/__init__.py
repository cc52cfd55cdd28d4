"""Run trained models and language models on puzzles."""
