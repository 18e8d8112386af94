"""A policy version to the engines: each pipeline stage sends its own layers, in turn.

    rank 0         begin: engines pause                                    (`EnginePool.begin`)
    stage 0, 1 ..  gather, send, hash, write the stage's part of a folder  (`StageSender`)
    rank 0         finish: checksums agree, engines serve it               (`EnginePool.finish`)
    rank 0, later  the folder appears, for engines that come back; older ones go

Stages take turns because an engine takes one bucket at a time, and two orders at two engines would
wait for each other. Over `disk` the folder comes first, and engines pause only to read it.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdpo_megatron.actor.actor import Actor
from sdpo_megatron.actor.agree import from_rank, from_rank_0
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.weights import fp8
from sdpo_megatron.weights.delta import SUFFIX, write_delta
from sdpo_megatron.weights.gather import StageGather
from sdpo_megatron.weights.spec import read_config
from sdpo_megatron.weights.version_folder import StageWriter, begin_version, commit_version
from serving.config import EngineConfig
from serving.swapping.checksum import EngineChecksum, merged, overall_checksum
from serving.swapping.stage_sender import Gathering, StageSender, open_transport
from serving.swapping.swap_target import StageReport, SwapTarget

if TYPE_CHECKING:
    from sdpo_megatron.loops.coordinator import Coordinator

_AHEAD_ON_DISK = 2
_DELTAS_KEPT = 16


class Publisher:
    """One rank's part. Every method is collective over the trainer ranks."""

    def __init__(
        self, actor: Actor, source: Path, folder: Path, engine: EngineConfig, kind: str
    ) -> None:
        """Prepare.

        Args:
            source: The Hugging Face folder that the model came from.
            folder: Where versions lie.
            kind: The transport: distributed, tensor or disk.
        """
        self._actor, self._source, self._folder = actor, source, folder
        self._engine, self.kind = engine, kind
        self._dtype: torch.dtype = getattr(torch, engine.dtype)
        self._in_fp8 = engine.precision == "fp8"
        self._sender: StageSender | None = None
        self._writer: StageWriter | None = None
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._committing: Future[None] | None = None

    def publish(self, number: int, coordinator: Coordinator | None) -> PolicyVersion:
        """The live weights to the engines as version `number`; returns it with its checksum.

        Raises:
            CheckpointError: On rank 0: this or the last version could not be written.
            SwapError, EngineDiedError: On rank 0: see `EnginePool.finish`.
        """
        stream = self.kind != "disk"
        target = self._folder / f"v{number:06d}"
        draft = None
        if coordinator:
            self.wait()
            draft = begin_version(self._source, target, self._dtype, in_fp8=self._in_fp8)
        draft = from_rank_0(draft)
        assert draft is not None
        begun = coordinator.begin_swap(number, stream=stream) if coordinator and stream else None
        swap: SwapTarget = from_rank_0(begun) or SwapTarget(number=number)
        reports = self._send(swap, draft)
        checksum = from_rank_0(_overall(reports))
        version = PolicyVersion(number, checksum)
        try:
            if coordinator:
                commit = self._behind.submit(self._commit, draft, target, len(reports), stream)
                if stream:
                    self._committing = commit
                else:
                    commit.result()
                    coordinator.begin_swap(number, stream=False)
                coordinator.finish_swap(version, target, reports, self.kind)
                if not stream:
                    self._forget_all_but(target)
        finally:
            if self._writer is not None:  # the engines have what was sent: the disk's turn
                self._writer.release()
        return version

    def wait(self) -> None:
        """On rank 0: until the last version's folder is whole.

        Raises:
            CheckpointError: It could not be written.
        """
        committing, self._committing = self._committing, None
        if committing is not None:
            committing.result()

    def close(self) -> None:
        """Give back connections and groups, once what is written is whole.

        Raises:
            CheckpointError: On rank 0: the last version could not be written.
        """
        if self._sender is not None:
            self._sender.close()
        self._behind.shutdown()
        self.wait()

    def _send(self, swap: SwapTarget, draft: Path) -> list[StageReport]:
        """Every stage's report, on every rank."""
        gather = StageGather(
            self._actor.chunks, self._actor.spec, self._dtype, self._engine.swap.bucket_mib
        )
        reports: list[StageReport] = []
        for stage in range(gather.num_stages):
            failed = {url for report in reports for url in report.failures}
            left = [served for served in swap.engines if served.url not in failed]
            now = SwapTarget(
                number=swap.number, engines=tuple(left), seconds_left=swap.seconds_left
            )
            mine = None
            if stage == gather.stage:
                mine = self._send_stage(gather, now, draft)
            reports.append(from_rank(gather.sender_of(stage), mine))
        return reports

    def _send_stage(self, gather: StageGather, swap: SwapTarget, draft: Path) -> StageReport | None:
        if not gather.is_sender:
            for _ in gather.buckets():
                pass
            return None
        if self._sender is None:
            transport = open_transport(self.kind, gather.device, self._engine)
            self._sender = StageSender(transport, self._engine)
        if self.kind == "disk":
            writer = StageWriter(draft, gather.stage, max_ahead=_AHEAD_ON_DISK)
        else:
            writer = self._writer = StageWriter(draft, gather.stage, behind=True)
        return self._sender.send(swap, self._gathering(gather), writer, self._checksum())

    def _gathering(self, gather: StageGather) -> Gathering:
        """Its buckets as the engines hold them."""
        if not self._in_fp8:
            return gather.buckets
        return lambda buffers: fp8.encoded(gather.buckets(), buffers)

    def _checksum(self) -> EngineChecksum | None:
        """None where nobody compares it."""
        if self._engine.swap.verify == "engines":
            return None
        return EngineChecksum.of_engine(read_config(self._source), self._engine)

    def _commit(self, draft: Path, target: Path, num_stages: int, stream: bool) -> None:
        commit_version(draft, target, num_stages, self._engine.swap.deadline_s)
        if self._engine.swap.delta:
            self._write_delta(target)
        if stream:
            self._forget_all_but(target)

    def _write_delta(self, target: Path) -> None:
        before = sorted(old for old in target.parent.glob("v*") if old.is_dir() and old < target)
        if before:
            write_delta(before[-1], target, target.with_suffix(SUFFIX))

    def _forget_all_but(self, target: Path) -> None:
        """Older versions and deltas, and what a kill left half written."""
        deltas = sorted(target.parent.glob(f"*{SUFFIX}"))[-_DELTAS_KEPT:]
        for old in target.parent.iterdir():
            if old.is_dir() and old != target:
                shutil.rmtree(old, ignore_errors=True)
            elif not old.is_dir() and old not in deltas:
                old.unlink(missing_ok=True)


def _overall(reports: list[StageReport]) -> str:
    parts = [report.checksums for report in reports]
    return overall_checksum(merged(parts)) if all(parts) else ""
