"""The driver's side of a sweep: schedule trials, start them through Ray Tune, keep the budget."""
