"""Where groups are given out to workers, come back as receipts, and are cut into batches.

Everything is decided on receipts, and every decision is in the ledger before anybody acts on it.
No process and no socket: the controller of a run calls it, and so do the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import GroupFileError
from sdpo_megatron.nouns import GroupLease, GroupReceipt
from sdpo_megatron.rollout.admission import choose, is_stale, room
from sdpo_megatron.rollout.group_file import read_samples, receipt_from_plain, receipt_to_plain
from sdpo_megatron.rollout.ledger.book import NO_SIGNAL
from sdpo_megatron.rollout.ledger.ledger import Ledger
from sdpo_megatron.rollout.ledger.lines import Place

# In a receipt's notes:
NEWEST = "newest_version"  # of all its tokens; None where nobody knows
OLDEST = "oldest_versions"  # of the tokens of each sample, where known
SIGNAL = "signal"  # whether anything can be learnt from the group


class Desk:
    """The groups of one run.

    Attributes:
        ledger: What has happened to them.
        late: Receipts that came after another one for the same group.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: Path,
        *,
        batch: int,
        eta: int,
        steps: int,
        lease_s: float,
        max_replaced: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `resume` comes first.

        Args:
            folder: Where workers write the groups' files.
            batch: Groups of a rollout batch.
            eta: `rollout.max_staleness`.
            steps: Rollout batches of the run.
            lease_s: Seconds after which a group that did not come back is given out again.
            max_replaced: Groups without signal that are replaced in each batch.
        """
        self.ledger, self.late = ledger, 0
        self._folder, self._batch, self._eta, self._steps = folder, batch, eta, steps
        self._lease_s, self._max_replaced, self._now = lease_s, max_replaced, now
        self._trained_batches: int | None = None  # not before engines have weights
        self._deadlines: dict[int, float] = {}

    def resume(self, step: int, version: int, place: Place) -> None:
        """Go on from the checkpoint of `step`, whose weights are `version`.

        Groups that newer weights had a part in go, since those weights are lost: their questions
        are asked again. So are those whose file is gone or torn, and those that were being made.
        """
        self.ledger.resume(step, place)
        book = self.ledger.book
        again: dict[str, list[int]] = {"abandoned": [], "file_lost": []}
        for position in book.positions("committed"):
            receipt = book[position].receipt
            if (receipt["notes"].get(NEWEST) or 0) > version:
                again["abandoned"].append(position)
            elif not self._is_whole(receipt):
                again["file_lost"].append(position)
        for reason, positions in again.items():
            if positions:
                self.ledger.write({"event": "again", "positions": positions, "reason": reason})
        held = (*book.positions("committed"), *book.positions("trained"))
        kept = {book[position].receipt["file"] for position in held}
        self._clear(path for path in self._folder.glob("*.bin") if path.name not in kept)

    def admit(self, trained_batches: int) -> None:
        """Engines have the weights after so many batches: generation may run ahead of these."""
        self._trained_batches = trained_batches

    @property
    def room(self) -> int:
        """Groups that may be begun now."""
        if self._trained_batches is None:
            return 0
        book = self.ledger.book
        free = room(
            running=book.num("leased"),
            accepted=book.num("committed", "batched", "trained"),
            trained_batches=self._trained_batches,
            batch=self._batch,
            eta=self._eta,
            last=self._steps,
        )
        return max(0, free)

    def lease(self, worker: str, limit: int) -> list[GroupLease]:
        """Groups for `worker` to make now, at most `limit`, in the order of the run's questions."""
        book = self.ledger.book
        num = min(limit, self.room)
        if num <= 0:
            return []
        new = max(0, num - book.num("waiting"))
        positions = [*book.positions("waiting"), *range(book.planned, book.planned + new)][:num]
        lease = {"positions": positions, "worker": worker, "seconds": self._lease_s}
        self.ledger.write(
            *([{"event": "plan", "num": new}] if new else []), {"event": "lease", **lease}
        )
        self._deadlines |= dict.fromkeys(positions, self._now() + self._lease_s)
        return [GroupLease(position, book[position].tries - 1) for position in positions]

    def commit(self, receipt: GroupReceipt) -> bool:
        """A group is complete and its file is in place. False when it is not wanted any more:
        somebody else was first, or it was dropped.
        """
        position, book = receipt.lease.position, self.ledger.book
        if position not in book or book[position].state not in ("waiting", "leased"):
            self.late += 1
            if position not in book or book[position].receipt.get("file") != receipt.file:
                self._clear([self._folder / receipt.file])
            return False
        plain = receipt_to_plain(receipt)
        self.ledger.write({"event": "commit", "position": position, "receipt": plain})
        self._deadlines.pop(position, None)
        if not receipt.notes.get(SIGNAL, True) and book.replaced < self._max_replaced:
            self._drop([position], NO_SIGNAL)
        return True

    def drop(self, position: int, reason: str) -> None:
        """Its worker gave the group up; another question takes its place."""
        book = self.ledger.book
        if position in book and book[position].state in ("waiting", "leased"):
            self._drop([position], reason)

    def expire(self) -> list[int]:
        """Take back what was not made in time; these positions are given out again."""
        now = self._now()
        return self._again([p for p, end in self._deadlines.items() if end <= now], "expired")

    def worker_gone(self, worker: str) -> list[int]:
        """Take back all that a worker had, which is dead."""
        book = self.ledger.book
        held = [p for p in book.positions("leased") if book[p].worker == worker]
        return self._again(held, "worker_died")

    def held_by(self, worker: str) -> int:
        """How many groups a worker has."""
        book = self.ledger.book
        return sum(book[position].worker == worker for position in book.positions("leased"))

    def cut(self, step: int, version: int) -> list[GroupReceipt] | None:
        """The groups of rollout batch `step` (from 1), which `version` is trained on next; None
        while too few are complete. What is too old is dropped first.
        """
        book = self.ledger.book
        if book.num("committed") < self._batch:
            return None
        done = [(position, book[position].receipt) for position in book.positions("committed")]
        stale = {p for p, r in done if is_stale(r["oldest_version"], version, self._eta)}
        if stale:
            self._drop(sorted(stale), "stale")
            done = [(position, receipt) for position, receipt in done if position not in stale]
        chosen = choose(done, self._batch, eta=self._eta)
        if chosen is None:
            return None
        self.ledger.write({"event": "batch", "step": step, "positions": chosen})
        book.sums()  # they add up, at every step
        return [receipt_from_plain(book[position].receipt) for position in chosen]

    def saved(self, step: int, oldest: int) -> None:
        """The checkpoint of `step` is whole; `oldest` is the first of those that are kept. Files of
        groups that no checkpoint can ask for any more are deleted.
        """
        book = self.ledger.book
        oldest = max(oldest, book.oldest)  # somebody may have put an older one back
        done = (*book.positions("batched"), *book.positions("trained"))
        over = [book[p].receipt["file"] for p in done if book[p].step <= oldest]
        self.ledger.write({"event": "saved", "step": step, "oldest": oldest})
        self._clear(self._folder / name for name in over)

    def _is_whole(self, receipt: Mapping[str, Any]) -> bool:
        try:
            read_samples(self._folder / receipt["file"], crc32=receipt["crc32"])
        except GroupFileError:
            return False
        return True

    def _again(self, positions: list[int], reason: str) -> list[int]:
        if positions:
            self.ledger.write({"event": "again", "positions": positions, "reason": reason})
        for position in positions:
            self._deadlines.pop(position, None)
        return positions

    def _drop(self, positions: list[int], reason: str) -> None:
        book = self.ledger.book
        files = [book[p].receipt["file"] for p in positions if book[p].receipt]
        self.ledger.write({"event": "drop", "positions": positions, "reason": reason})
        for position in positions:
            self._deadlines.pop(position, None)
        self._clear(self._folder / name for name in files)

    def _clear(self, files: Iterable[Path]) -> None:
        """Delete groups that nobody will read, and what lies beside them under the same name."""
        for path in files:
            for one in (path, path.with_suffix(".jsonl.zst")):
                one.unlink(missing_ok=True)
