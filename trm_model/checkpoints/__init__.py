"""Read and write checkpoints, ours and other formats."""
