"""Write the record of one attempt."""

from __future__ import annotations

import json

from orchestrator.records.schema import AttemptEnd, AttemptStart, Row, TrialResult
from orchestrator.storage import Storage


def dump_rows(rows: list[Row]) -> bytes:
    """One segment: a JSON line per row."""
    lines = [{"step": r.step, "time_s": r.time_s, "split": r.split, "metrics": r.metrics} for r in rows]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


class TrialWriter:
    """The write side of one attempt. Used by the process that trains, and by nobody else."""

    def __init__(self, storage: Storage, sweep: str, trial_id: str) -> None:
        self.folder = storage.sub(f"sweeps/{sweep}/trials/{trial_id}")
        self.checkpoints = self.folder.sub("checkpoints")
        taken = [int(key.split("/")[1]) for key in self.folder.list("attempts") if key.endswith("start.json")]
        self.attempt = max(taken, default=0) + 1
        self._pending: list[Row] = []
        self._segments = 0

    def start(self, start: AttemptStart) -> None:
        """Announce the attempt."""
        self.folder.write(f"attempts/{self.attempt:03d}/start.json", start.encode())

    def inherit(self, rows: list[Row]) -> None:
        """Take over the curve of the trial whose checkpoint this attempt will begin with: to be written before it."""
        self.folder.write(f"attempts/{self.attempt:03d}/rows-000000.jsonl", dump_rows(rows))

    def add(self, row: Row) -> None:
        """Keep a row for the next segment."""
        self._pending.append(row)

    def flush(self) -> None:
        """Write what is pending as one immutable segment."""
        if not self._pending:
            return
        self._segments += 1
        name = f"attempts/{self.attempt:03d}/rows-{self._segments:06d}.jsonl"
        self.folder.write(name, dump_rows(self._pending))
        self._pending.clear()

    def finish(self, result: TrialResult, files: dict[str, bytes]) -> None:
        """Write the final score, after the files that belong to it: from now on the trial is finished."""
        self.flush()
        for name, data in files.items():
            self.folder.write(name, data)
        self.folder.write("result.json", result.encode())

    def end(self, end: AttemptEnd) -> None:
        """Say how the attempt ended."""
        self.flush()
        self.folder.write(f"attempts/{self.attempt:03d}/end.json", end.encode())
