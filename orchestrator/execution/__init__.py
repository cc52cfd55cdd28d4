"""Run the driver's side of a sweep: schedule trials, start them through Ray Tune, enforce the budget."""
