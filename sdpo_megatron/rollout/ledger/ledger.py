"""The ledger of a run: `rollouts/ledger.jsonl`, and the state that its records lead to.

A record is written before anybody acts on it, so a process that is killed between any two writes
leaves a file from which the next one comes to exactly the state that was acted upon. Records that
say what was trained on also wait for the disk; of the others a power cut may take the last ones,
which costs the groups that they were about.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sdpo_megatron.errors import LedgerError
from sdpo_megatron.files import sync_folder
from sdpo_megatron.rollout.ledger.book import Book
from sdpo_megatron.rollout.ledger.lines import Place, Record, decode, encode

NAME = "ledger.jsonl"
_WAIT_FOR_DISK = ("batch", "saved", "resume")


class Ledger:
    """Opens the ledger in `folder`, or begins one; use it from one thread.

    Attributes:
        book: The state.
        place: How far the file goes.
    """

    def __init__(self, folder: Path, may_write: Callable[[], None] = lambda: None) -> None:
        """Replay what is there. A last line that a kill has torn is taken off.

        Args:
            folder: Made when absent.
            may_write: Called before every write; raises once the run is another trainer's.

        Raises:
            LedgerError: The file was changed by something else.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self._may_write = may_write
        self.book, self.place = Book(), Place()
        data = self.path.read_bytes() if self.path.exists() else b""
        for record, place in decode(data, self.path):
            try:
                self.book.apply(record)
            except (LedgerError, TypeError) as error:
                raise LedgerError(f"{self.path}, before byte {place.offset}: {error}") from error
            self.place = place
        if self.place.offset < len(data):
            may_write()
            os.truncate(self.path, self.place.offset)
        self.path.touch()
        sync_folder(folder)

    def write(self, *records: Record) -> None:
        """Append; the state is then the one behind it.

        Raises:
            LedgerError: A record cannot follow what was before; nothing was written.
            OSError: It could not be written (a full disk, say). After either this object is of no
                use: what is on the disk counts.
        """
        self._may_write()
        for record in records:
            self.book.apply(record)
        data, place = encode(records, self.place)
        with self.path.open("ab", buffering=0) as file:
            while data:  # a nearly full disk takes a part; the rest then raises
                data = data[file.write(data) :]
            if any(record["event"] in _WAIT_FOR_DISK for record in records):
                os.fsync(file.fileno())
        self.place = place

    def resume(self, step: int, saved: Place) -> None:
        """The trainer goes on from the checkpoint of `step` (0: from the start), which knew this
        ledger up to `saved`.

        Raises:
            LedgerError: The file does not hold what the checkpoint knew of, or forgot that step.
        """
        if saved != Place() and not self._holds(saved):
            raise LedgerError(
                f"{self.path} ({self.place.offset} bytes) is not the ledger that the checkpoint of "
                f"step {step} knew up to byte {saved.offset}: put the right file back, or begin a "
                "new run from the exported weights"
            )
        if self.place.offset or step:
            self.write({"event": "resume", "step": step})

    def _holds(self, place: Place) -> bool:
        return any(found == place for _, found in decode(self.path.read_bytes(), self.path))
