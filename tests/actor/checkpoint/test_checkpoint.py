"""Checkpoints: resume is exact, another layout can load them, torn ones are never chosen, a full
disk loses nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.actor.checkpoint import is_whole, whole_checkpoints
from sdpo_megatron.errors import CheckpointError
from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks

Metrics = tuple[float, float, float]


def _steps(actor: Any, seeds: range) -> list[Metrics]:
    found = []
    for seed in seeds:
        metrics = actor.step(actor.share_of(made_up_samples(seed)))
        found.append(
            (metrics["train/loss"], metrics["train/grad_norm"], metrics["teacher/ema_distance"])
        )
    return found


def _actor(folder: str, layout: dict[str, int]) -> Any:
    from sdpo_megatron.actor.model.config import ParallelConfig

    return make_actor(folder, parallel=ParallelConfig(**layout))


def train_and_save(
    rank: int, world: int, folder: str, root: str, layout: dict[str, int]
) -> list[Metrics]:
    """Two steps, a checkpoint, three more steps."""
    actor = _actor(folder, layout)
    before = _steps(actor, range(2))
    actor.save(Path(root), 2, {"position": 17}, keep=2)
    return before + _steps(actor, range(2, 5))


def resume(
    rank: int, world: int, folder: str, root: str, layout: dict[str, int]
) -> tuple[Any, list[Metrics]]:
    """What the three later steps give after loading."""
    actor = _actor(folder, layout)
    common = actor.load_newest(Path(root))
    return common["position"], _steps(actor, range(2, 5))


def fail_to_save(rank: int, world: int, folder: str, root: str) -> str:
    actor = _actor(folder, {})
    actor.step(actor.share_of(made_up_samples(0)))
    actor.save(Path(root), 1, {}, keep=2)
    from sdpo_megatron.actor.checkpoint import writing

    original, writing.seal = writing.seal, _disk_is_full
    try:
        actor.save(Path(root), 2, {}, keep=2)
    except CheckpointError as error:
        return str(error)
    finally:
        writing.seal = original
    return ""


def save_where_no_folder_can_be(rank: int, world: int, folder: str, root: str) -> str:
    actor = _actor(folder, {"pipeline": world})
    try:
        actor.save(Path(root), 1, {}, keep=2)
    except CheckpointError as error:
        return str(error)
    return ""


def save_within_limits(rank: int, world: int, folder: str, root: str) -> tuple[list[str], str]:
    """(processes that a save started, what a save says whose files may not grow)."""
    import resource
    import sys

    started: list[str] = []

    def watch(event: str, _arguments: tuple[Any, ...]) -> None:
        if event in ("os.fork", "os.posix_spawn", "subprocess.Popen"):
            started.append(event)

    actor = _actor(folder, {})
    sys.addaudithook(watch)
    actor.save(Path(root), 1, {}, keep=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        actor.save(Path(root), 2, {}, keep=2)
    except CheckpointError as error:
        return started, str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return started, ""


def _disk_is_full(_folder: Path) -> int:
    raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def saved(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Metrics]]:
    root = str(tmp_path_factory.mktemp("checkpoints"))
    (Path(root) / "step-000001.tmp").mkdir()
    return root, run_ranks(train_and_save, 1, model, root, {})[0]


@pytest.mark.slow
def test_resume_gives_the_same_numbers_to_the_last_digit(
    model: str, saved: tuple[str, list[Metrics]]
) -> None:
    root, unbroken = saved
    position, resumed = run_ranks(resume, 1, model, root, {})[0]
    assert position == 17
    assert resumed == unbroken[2:]
    assert [path.name for path in Path(root).iterdir()] == ["step-000002"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{"tensor": 2}, {"pipeline": 2}, {}], ids=["TP2", "PP2", "DP2"])
def test_another_layout_loads_it(
    model: str, saved: tuple[str, list[Metrics]], layout: dict[str, int]
) -> None:
    root, unbroken = saved
    for position, resumed in run_ranks(resume, 2, model, root, layout):
        assert position == 17
        for got, expected in zip(resumed, unbroken[2:], strict=True):
            assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "layout"),
    [(4, {"tensor": 2, "pipeline": 2}), (2, {})],
    ids=["TP2 x PP2", "DP2"],
)
def test_a_sharded_save_loads_on_one_rank(
    world: int, layout: dict[str, int], model: str, tmp_path: Path
) -> None:
    unbroken = run_ranks(train_and_save, world, model, str(tmp_path), layout)[0]
    _, resumed = run_ranks(resume, 1, model, str(tmp_path), {})[0]
    for got, expected in zip(resumed, unbroken[2:], strict=True):
        assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_norms_that_are_cut_like_the_heads_load_on_one_rank(tmp_path: Path) -> None:
    """OLMo 3's norms of queries and keys are shards under tensor parallelism, as matrices are."""
    model, root = str(tiny_model(tmp_path / "model", family="olmo3")), str(tmp_path / "saved")
    unbroken = run_ranks(train_and_save, 2, model, root, {"tensor": 2})[0]
    _, resumed = run_ranks(resume, 1, model, root, {})[0]
    for got, expected in zip(resumed, unbroken[2:], strict=True):
        assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_full_disk_says_what_to_do_and_keeps_the_last_good_one(
    model: str, tmp_path: Path
) -> None:
    message = run_ranks(fail_to_save, 1, model, str(tmp_path))[0]
    assert "No space left on device" in message
    assert "Free space" in message
    assert [step for step, _ in whole_checkpoints(tmp_path)] == [1]


@pytest.mark.slow
def test_every_rank_hears_that_the_first_one_cannot_make_the_folder(
    model: str, tmp_path: Path
) -> None:
    """Only rank 0 makes it; the other must not wait for it in a collective call."""
    (tmp_path / "file").touch()
    root = str(tmp_path / "file" / "checkpoints")
    for message in run_ranks(save_where_no_folder_can_be, 2, model, root):
        assert "rank 0: NotADirectoryError" in message
        assert "make the folder writable" in message


@pytest.mark.slow
def test_writing_starts_no_process_that_could_outlive_the_rank(model: str, tmp_path: Path) -> None:
    started, message = run_ranks(save_within_limits, 1, model, str(tmp_path))[0]
    assert started == []
    assert "could not be written" in message
    assert "File too large" in message
    assert [step for step, _ in whole_checkpoints(tmp_path)] == [1]


@pytest.mark.slow
def test_a_torn_checkpoint_is_never_chosen(
    saved: tuple[str, list[Metrics]], tmp_path: Path
) -> None:
    import shutil

    root = Path(saved[0])
    whole = root / "step-000002"
    assert is_whole(whole)
    for name, tear in {
        "step-000003": lambda folder: (folder / "complete.json").unlink(),
        "step-000004": lambda folder: next(folder.glob("*.distcp")).write_bytes(b"short"),
        "step-000005": lambda folder: next(folder.glob("*.distcp")).unlink(),
        "step-000006": lambda folder: (folder / "complete.json").write_text("{"),
    }.items():
        shutil.copytree(whole, tmp_path / name)
        tear(tmp_path / name)
    shutil.copytree(whole, tmp_path / "step-000007.tmp")
    assert whole_checkpoints(tmp_path) == []
    shutil.copytree(whole, tmp_path / "step-000001")
    assert [step for step, _ in whole_checkpoints(tmp_path)] == [1]


def test_an_empty_or_absent_folder_has_none(tmp_path: Path) -> None:
    assert whole_checkpoints(tmp_path) == []
    assert whole_checkpoints(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("size", "whole"), [(5, True), (4, False), (6, False), (0, False), (None, False)]
)
def test_a_file_of_another_size_than_recorded_tears_a_checkpoint(
    size: int | None, whole: bool, tmp_path: Path
) -> None:
    """One that is longer, too: two writers of one file leave the tail of the longer one."""
    folder = tmp_path / "step-000001"
    folder.mkdir()
    if size is not None:
        (folder / "0.distcp").write_bytes(b"x" * size)
    (folder / "common.pt").write_bytes(b"abc")
    files = {"0.distcp": 5, "common.pt": 3}
    (folder / "complete.json").write_text(json.dumps({"files": files}))
    assert is_whole(folder) is whole
    assert [step for step, _ in whole_checkpoints(tmp_path)] == [1] * whole
