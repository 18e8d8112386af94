"""Training goes on while a checkpoint is written, and each rank touches its share alone."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.actor.checkpoint import is_whole, whole_checkpoints
from sdpo_megatron.errors import CheckpointError
from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks

pytestmark = pytest.mark.slow


def _losses(actor: Any, seeds: range) -> list[float]:
    return [actor.step(actor.share_of(made_up_samples(seed)))["train/loss"] for seed in seeds]


def _parallel(layout: dict[str, int]) -> Any:
    from sdpo_megatron.actor.model.config import ParallelConfig

    return ParallelConfig(**layout)


def train_while_writing(
    rank: int, world: int, folder: str, root: str, layout: dict[str, int]
) -> dict[str, Any]:
    """Two steps train while the disk stands still; then the state before them is loaded."""
    from sdpo_megatron.actor.checkpoint import writing

    disk, seal = threading.Event(), writing.seal
    writing.seal = lambda scratch: (disk.wait(), seal(scratch))[1]
    actor = make_actor(folder, parallel=_parallel(layout))
    _losses(actor, range(2))
    actor.begin_save(Path(root), 2, {"position": 17}, keep=2)
    unbroken = _losses(actor, range(2, 4))
    early = actor.finish_save(wait=False)
    unfinished = whole_checkpoints(Path(root))
    disk.set()
    saved = actor.finish_save(wait=True)
    folders = whole_checkpoints(Path(root))
    common = actor.load_newest(Path(root))
    return {
        "early": early,
        "unfinished": unfinished,
        "saved": saved and (saved.step, saved.folder.name),
        "folders": folders,
        "position": common["position"],
        "unbroken": unbroken,
        "resumed": _losses(actor, range(2, 4)),
        "nothing": actor.finish_save(wait=True),
    }


def fail_in_background(rank: int, world: int, folder: str, root: str) -> list[str]:
    """What each rank hears when the last one cannot write, and when the folder is not ours."""
    from torch.distributed.checkpoint import filesystem

    actor = make_actor(folder, parallel=_parallel({}))
    actor.save(Path(root), 1, {}, keep=2)
    messages = []

    def hear(**more: Any) -> None:
        actor.begin_save(Path(root), 2, {}, keep=2, **more)
        actor.step(actor.share_of(made_up_samples(0)))
        try:
            actor.finish_save(wait=True)
        except CheckpointError as error:
            messages.append(str(error))

    write = filesystem._write_item
    if rank == world - 1:
        filesystem._write_item = _no_space
    hear()
    filesystem._write_item = write
    hear(may_commit=_not_ours)
    left = sorted(path.name for path in Path(root).iterdir())
    return [*messages, *left]


def _no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def _not_ours() -> None:
    raise CheckpointError("somebody else has the lease")


def count_bytes(rank: int, world: int, folder: str, root: str) -> dict[str, int]:
    """Bytes that this rank wrote and read of a state, by the kernel's count."""
    actor = make_actor(folder)
    actor.step(actor.share_of(made_up_samples(0)))
    start = _io()
    actor.save(Path(root), 1, {}, keep=1)
    written = _io()
    actor.load_newest(Path(root))
    loaded = _io()
    return {
        "written": written["wchar"] - start["wchar"],
        "read": loaded["rchar"] - written["rchar"],
        "share": 4 * 4 * actor.weights.numel(),
        "parameters": sum(p.numel() for chunk in actor.chunks for p in chunk.parameters()),
    }


def _io() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.mark.parametrize("layout", [{}, {"tensor": 2}], ids=["DP2", "TP2"])
def test_steps_go_on_and_what_is_written_is_the_state_before_them(
    layout: dict[str, int], model: str, tmp_path: Path
) -> None:
    for found in run_ranks(train_while_writing, 2, model, str(tmp_path), layout):
        assert found["early"] is None
        assert found["unfinished"] == []
        assert found["saved"] == (2, "step-000002")
        assert [step for step, _ in found["folders"]] == [2]
        assert found["position"] == 17
        assert found["resumed"] == found["unbroken"]
        assert found["nothing"] is None


def test_every_rank_hears_of_a_failure_anywhere_and_the_last_good_one_stays(
    model: str, tmp_path: Path
) -> None:
    for full, not_ours, *left in run_ranks(fail_in_background, 2, model, str(tmp_path)):
        assert "rank 1: OSError: [Errno 28] No space left on device" in full
        assert "Free space" in full
        assert "rank 0: CheckpointError: somebody else has the lease" in not_ours
        assert left == ["step-000001"]
    assert is_whole(tmp_path / "step-000001")


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_rank_writes_and_reads_its_share_of_the_state(
    world: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Masters, both moments and the EMA teacher are 16 bytes a parameter, shared by the ranks."""
    folder = tmp_path_factory.mktemp("bytes")
    model = tiny_model(folder / "model", hidden=256)
    for one in run_ranks(count_bytes, world, str(model), str(folder / "saved")):
        assert one["share"] == pytest.approx(16 * one["parameters"] / world, rel=0.01)
        # The index, and 18 kB for each tensor of a zip file's directory: much here, where they have
        # 130 kB on average.
        assert one["share"] < one["written"] < 1.1 * one["share"]
        assert one["share"] < one["read"] < 1.25 * one["share"]


def test_torchs_own_reader_understands_it(model: str, tmp_path: Path) -> None:
    """The format is torch.distributed.checkpoint's, not ours: keys, shapes, values."""
    import torch
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    expected = run_ranks(save_and_show, 2, model, str(tmp_path))[0]
    state: dict[str, Any] = {}
    _load_state_dict(
        state,
        storage_reader=FileSystemReader(tmp_path / "step-000001"),
        planner=_EmptyStateDictLoadPlanner(),
        no_dist=True,
    )
    name = "master.decoder.layers.self_attention.linear_proj.weight"
    assert state[name].shape == (4, 32, 32)  # all layers in one
    assert torch.equal(state[name][1], expected)


def save_and_show(rank: int, world: int, folder: str, root: str) -> Any:
    actor = make_actor(folder)
    actor.save(Path(root), 1, {}, keep=1)
    shown = dict(actor.chunks[0].module.named_parameters())
    return shown["decoder.layers.1.self_attention.linear_proj.weight"].detach().clone()
