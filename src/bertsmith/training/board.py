"""The figures of a run for TensorBoard, each row written when it is logged.

TensorBoard's own writer has a thread: of a full disk it dies with a traceback, and where it gets no memory to begin
with, Python waits for it for ever.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Board:
    """A new file of events.

    Args:
        folder: Where TensorBoard looks for it.
        resumed_step: What a killed run logged after this step is hidden; 0 for a run that begins.
    """

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("wb", buffering=0))
        self._write(Event(file_version="brain.Event:2"))
        if resumed_step:
            self._write(Event(step=resumed_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, row: Mapping[str, float]) -> None:
        """Write all figures of a row but its step, at that step."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "step"]
        self._write(Event(step=int(row["step"]), summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
