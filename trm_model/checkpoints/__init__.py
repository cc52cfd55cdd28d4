"""Read and write checkpoints, in our own and other formats."""
