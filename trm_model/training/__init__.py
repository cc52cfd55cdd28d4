"""Train a model: loss, optimizer, trainer and training loop, in one or several processes."""
