"""Run trials on a worker machine: actor, fork server, attempt, telemetry."""
