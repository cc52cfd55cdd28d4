"""Hardware: what there is, what a trial needs, what it costs."""
