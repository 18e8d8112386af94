"""A run of the real desk and ledger with workers, trainer and checkpoints of a few lines, which a
kill ends at any write.

The trainer's weights are the list of groups that they were trained on: what a real run's depend on.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.nouns import GroupLease, GroupReceipt, TrainSample, VersionSpan
from sdpo_megatron.rollout.desk import NEWEST, SIGNAL, Desk
from sdpo_megatron.rollout.group_file import read_receipt, write_group
from sdpo_megatron.rollout.ledger.ledger import Ledger
from sdpo_megatron.rollout.ledger.lines import Place

BATCH = 3


class Killed(BaseException):
    """The controller's process is gone."""


@dataclass(frozen=True)
class Checkpoint:
    """What a restart finds."""

    step: int = 0
    place: Place = field(default_factory=Place)
    trained: tuple[tuple[int, ...], ...] = ()


class Run:
    """One run folder over all the lives of its controller.

    Attributes:
        trained: Positions of each step, in the weights as they are now.
        ages: Staleness of every group that was trained on, in the weights as they are now.
    """

    def __init__(self, folder: Path, seed: int, *, eta: int, max_replaced: int = 0) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.eta, self.max_replaced = eta, max_replaced
        self.checkpoints = [Checkpoint()]
        self.writes, self.kill_at, self.torn = 0, -1, 0.0
        self.clock = 0.0

    def start(self) -> None:
        """A new process: replay, and go on from the newest checkpoint."""
        self.held: dict[int, tuple[GroupLease, int]] = {}  # by position, with the version it began
        self.trained = list(self.checkpoints[-1].trained)
        ledger = Ledger(self.folder)
        assert Ledger(self.folder).book == ledger.book  # a second look finds the same
        self.desk = Desk(
            ledger, self.folder / "groups", batch=BATCH, eta=self.eta, steps=10**6, lease_s=5.0,
            max_replaced=self.max_replaced, now=lambda: self.clock,
        )  # fmt: skip
        self.desk.resume(self.step, self.step, self.checkpoints[-1].place)
        self.desk.admit(self.step)

    @property
    def step(self) -> int:
        """Steps trained; in this run the version as well."""
        return len(self.trained)

    def one_move(self) -> None:
        """Something happens: a lease, a receipt, a death, time, or a step."""
        move = self.draw.choice(("lease", "lease", "finish", "finish", "finish", "die", "time"))
        if move == "lease":
            for lease in self.desk.lease("w", 4):
                self.held[lease.position] = (lease, self.step)
        elif move == "finish" and self.held:
            lease, since = self.held.pop(self.draw.choice(sorted(self.held)))
            self.desk.commit(self.make(lease, since))
            if self.draw.random() < 0.2:
                self.desk.commit(self.make(lease, since))  # a receipt that came twice
        elif move == "die" and self.draw.random() < 0.2:
            self.held.clear()
            self.desk.worker_gone("w")
        elif move == "time":
            self.clock += self.draw.choice((0.0, 1.0, 4.0))
            for position in self.desk.expire():
                if self.draw.random() < 0.5:  # else the slow worker's receipt comes late
                    self.held.pop(position, None)
        self.train()

    def make(self, lease: GroupLease, since: int) -> GroupReceipt:
        """The group's file, and its receipt: sampled from `since` up to now."""
        signal = random.Random(f"{lease.position}").random() < 0.7
        tokens = {"response_ids": (7, 8), "loss_mask": (True, True), "log_probs": (-0.5, -0.5)}
        middle = (VersionSpan(0, 1, since), VersionSpan(1, 2, self.step))
        sample = TrainSample(question_id="q", index=0, prompt_ids=(1,), versions=middle, **tokens)
        folder, notes = self.folder / "groups", {NEWEST: self.step, SIGNAL: signal}
        made = write_group(folder, lease, "q", [sample], attempts=1, notes=notes)
        return made or read_receipt(folder / f"{lease.name}.bin")

    def train(self) -> None:
        """A step, where a batch is complete, and now and then a checkpoint."""
        batch = self.desk.cut(self.step + 1, self.step)
        if batch is None:
            return
        for group in batch:
            assert group.oldest_version is not None
            assert 0 <= self.step - group.oldest_version <= self.eta
            assert (self.folder / "groups" / group.file).exists()  # what is planned can be read
        self.trained.append(tuple(group.lease.position for group in batch))
        if self.draw.random() < 0.5:
            new = Checkpoint(self.step, self.desk.ledger.place, tuple(self.trained))
            self.checkpoints = [*self.checkpoints, new][-2:]
            if self.draw.random() < 0.8:  # else the kill comes before the ledger hears of it
                self.desk.saved(new.step, self.checkpoints[0].step)
        self.desk.admit(self.step)

    def live(self, patch: pytest.MonkeyPatch, steps: int) -> None:
        """Until `steps` are done, whatever happens."""
        while not self.live_once(patch, steps):
            self.kill_at = -1

    def live_once(self, patch: pytest.MonkeyPatch, steps: int) -> bool:
        """Until `steps` are done or the controller is killed; whether they are done."""
        with patch.context() as inner:
            try:
                self.start_under(inner)
                while self.step < steps:
                    self.one_move()
            except Killed:
                return False
        return True

    def start_under(self, patch: pytest.MonkeyPatch) -> None:
        """`start`, with every write of the ledger counted."""
        write = Ledger.write

        def counted(ledger: Ledger, *records: Any) -> None:
            size = ledger.path.stat().st_size
            if self.writes == self.kill_at and not self.torn:
                raise Killed
            write(ledger, *records)
            if self.writes == self.kill_at:
                written = ledger.path.stat().st_size - size
                os.truncate(ledger.path, size + round(written * self.torn))
                raise Killed
            self.writes += 1

        patch.setattr(Ledger, "write", counted)
        patch.setattr(os, "fsync", lambda _: None)  # kills are played, not power cuts
        self.start()

    def check(self, steps: int) -> None:
        """Nothing was trained twice, and every group that was planned is somewhere."""
        assert len(self.trained) == steps
        positions = [position for batch in self.trained for position in batch]
        assert len(positions) == len(set(positions)) == steps * BATCH
        book = Ledger(self.folder).book
        sums = book.sums()
        assert sums["batched"] + sums["trained"] == steps * BATCH
        live = {p for state in ("waiting", "leased", "committed") for p in book.positions(state)}
        assert not live & set(positions)
        assert len(live) + len(positions) + sums["dropped"] == book.planned
        if not self.eta and not self.max_replaced:
            assert positions == list(range(steps * BATCH))  # the order of the questions
