"""Define the commands of `trm`, one module per group."""
