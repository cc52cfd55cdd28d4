"""Puzzle data: sources, augmentation, Arrow builders, loaders and pictures. Imports nothing of the layers above."""
