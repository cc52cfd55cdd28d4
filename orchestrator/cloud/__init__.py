"""Launch sweeps on rented machines: price them, start them, watch them, end them, and account for what they cost."""
