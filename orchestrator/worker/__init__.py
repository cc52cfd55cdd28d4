"""The machine's side of a trial: actor, fork server, attempt, telemetry."""
