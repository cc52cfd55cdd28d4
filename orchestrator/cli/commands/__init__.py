"""The commands of `trm`, one module per group."""
