"""A run killed by SIGKILL at any moment resumes to an unkilled run's losses, to the last digit."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import signal
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sdpo_megatron.actor.checkpoint import whole_checkpoints
from sdpo_megatron.exit_codes import FAILED, STOPPED
from tests.loops import runs
from tests.loops.audit import audit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def unbroken(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    output = runs.finish(runs.start(runs.overrides(tiny_llama, folder)))
    assert "finished after step 4" in output
    assert f"token by token: {folder / 'report.html'}" in output
    return folder


def test_the_undisturbed_run_learns_from_real_attempts(unbroken: Path) -> None:
    found = runs.numbers(unbroken)
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    assert [row["policy_version"] for row in found] == [1, 2, 3, 4]
    assert all(row["train/grad_norm"] > 0 for row in found)
    assert len({row["train/loss"] for row in found}) == 4


def test_the_run_leaves_a_page_that_knows_how_the_teacher_saw_each_step(unbroken: Path) -> None:
    text = (unbroken / "report.html").read_text()
    (packed,) = re.findall(r'id="content">(.*?)</script>', text)
    content = json.loads(zlib.decompress(base64.b64decode(packed)))
    (run,), (attempts,) = content["runs"], content["attempts"]
    assert run["steps"] == [1, 2, 3, 4]
    columns = attempts["columns"]
    assert len(columns["step"]) == 4 * 2 * 3
    pairs = zip(columns["step"], columns["gain"], strict=True)
    assert {step for step, gain in pairs if gain is not None} == {1, 2, 3, 4}


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while-sampling": lambda run: (
        (run / "rollouts/step-000002.jsonl.zst").exists()
        and (run / "checkpoints/step-000002/complete.json").exists()
    ),
    "while-training": lambda run: (run / "rollouts/step-000003.jsonl.zst").exists(),
    "while-writing-a-checkpoint": lambda run: (run / "checkpoints/step-000003.tmp").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_equals_undisturbed(
    moment: str, unbroken: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = runs.overrides(tiny_llama, folder)
    process = runs.start(arguments)
    runs.wait_until(lambda: MOMENTS[moment](folder), process)
    runs.kill(process)
    (folder / "weights/.v000009.partial-1").mkdir()  # as of a kill while weights are written
    output = runs.finish(runs.start(["--resume", str(folder)]))
    assert "resumed after step" in output
    assert runs.numbers(folder) == runs.numbers(unbroken)
    assert [path.name for path in (folder / "weights").iterdir()] == ["v000004"]


def test_sigterm_checkpoints_and_exits_75(unbroken: Path, tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = runs.overrides(tiny_llama, folder, "run.checkpoint_every=0")
    process = runs.start(arguments)
    runs.wait_until(lambda: (folder / "rollouts/step-000002.jsonl.zst").exists(), process)
    process.send_signal(signal.SIGTERM)
    output = runs.finish(process, code=STOPPED)
    assert "stopped after step" in output
    runs.finish(runs.start(["--resume", str(folder)]))
    assert runs.numbers(folder) == runs.numbers(unbroken)


@pytest.mark.parametrize(
    ("number", "moment", "steps", "saved"),
    [
        (signal.SIGTERM, "rollouts/step-000001.jsonl.zst", 1, [1]),
        (signal.SIGINT, "logs/engine-0.log", 0, []),
    ],
    ids=["while-training", "while-the-engine-starts"],
)
def test_every_rank_of_a_pipeline_stops_with_a_checkpoint(
    number: int, moment: str, steps: int, saved: list[int], tiny_llama: Path, tmp_path: Path
) -> None:
    """As in a terminal and in a pod: all processes get the signal, not the launcher alone."""
    folder = tmp_path / "run"
    more = ("run.checkpoint_every=0", "parallel.pipeline=2")
    process = runs.start(runs.overrides(tiny_llama, folder, *more))
    runs.wait_until(lambda: (folder / moment).exists(), process)
    for rank in psutil.Process(process.pid).children():
        rank.send_signal(number)
    process.send_signal(number)
    output = runs.finish(process, code=STOPPED)
    assert f"stopped after step {steps}," in output
    assert [step for step, _ in whole_checkpoints(folder / "checkpoints")] == saved


def test_one_rank_that_is_asked_while_attempts_are_sampled_stops_all(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """As when torchrun's agent of one machine alone is told: the step is abandoned at once, and no
    rank is left looking for a plan.
    """
    folder = tmp_path / "run"
    long = (
        "run.steps=50",
        "parallel.pipeline=2",
        "rollout.sampling.max_new_tokens=300",
        "rollout.sampling.max_prompt_tokens=600",
        "rollout.teacher_prompt.max_prompt_tokens=700",
    )
    process = runs.start(runs.overrides(tiny_llama, folder, *long))
    runs.wait_until(lambda: (folder / "checkpoints/step-000001/complete.json").exists(), process)
    time.sleep(1.0)  # into the attempts of the next step, which take many seconds
    ranks = [p for p in runs.family(process) if "sdpo_megatron.loops.rank" in _title(p)]
    (second,) = [rank for rank in ranks if rank.environ()["RANK"] == "1"]
    done = len((folder / "metrics.jsonl").read_text().splitlines())
    second.send_signal(signal.SIGTERM)
    output = runs.finish(process, code=STOPPED)
    stopped = re.search(r"stopped after step (\d+),", output)
    assert stopped, output
    assert int(stopped[1]) - done in (0, 1)  # 1: the step ended in the moment of the signal


def test_a_second_signal_ends_the_run_at_once(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = runs.start(runs.overrides(tiny_llama, folder))
    runs.wait_until(lambda: (folder / "logs/engine-0.log").exists(), process)
    members = runs.family(process)
    for rank in psutil.Process(process.pid).children():
        rank.suspend()  # so that it cannot stop by itself in between
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while "once more to stop at once" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output = runs.finish(process, code=FAILED)
    assert f"sdpo train --resume {folder}" in output
    _, left = psutil.wait_procs(members, timeout=20)
    assert left == []


def test_a_run_folder_has_one_writer(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = runs.start(runs.overrides(tiny_llama, folder))
    runs.wait_until(lambda: (folder / "logs/engine-0.log").exists(), process)
    second = runs.finish(runs.start(["--resume", str(folder)]), code=FAILED)
    assert f"{folder} is being written by process {process.pid} on" in second
    (folder / "lease/000002").write_text('{"holder": "a trainer of another machine"}')
    output = runs.finish(process, code=FAILED)
    assert "a trainer of another machine has the lease" in output
    assert not (folder / "metrics.jsonl").exists()
    assert list((folder / "checkpoints").iterdir()) == []
    assert not (folder / "lease/000001.released").exists()


def test_an_engine_killed_while_sampling_comes_back(
    unbroken: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = runs.start(runs.overrides(tiny_llama, folder))
    runs.wait_until(lambda: (folder / "checkpoints/step-000001/complete.json").exists(), process)
    time.sleep(0.2)
    scheduler = [p for p in runs.family(process) if "scheduler" in _title(p)]
    assert scheduler, [_title(p) for p in runs.family(process)]
    scheduler[0].kill()
    output = runs.finish(process)
    assert "is back, serving policy version" in output
    assert runs.numbers(folder) == runs.numbers(unbroken)


def test_a_worker_killed_in_the_middle_of_a_group_changes_no_digit(
    unbroken: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = runs.start(runs.overrides(tiny_llama, folder))
    ledger = folder / "rollouts/ledger.jsonl"
    # One group of the second step is complete, the other is being made.
    runs.wait_until(lambda: ledger.exists() and '"position": 2' in ledger.read_text(), process)
    (worker,) = [
        p
        for p in runs.family(process)
        if "loops.workers.worker" in _title(p) and "-I" not in _title(p)
    ]
    worker.kill()
    output = runs.finish(process)
    assert "rollout worker worker-0: it ended with status 137" in output
    assert runs.numbers(folder) == runs.numbers(unbroken)
    assert audit(folder, per_step=2, eta=0).returned["worker_died"] > 0
    assert audit(unbroken, per_step=2, eta=0).sums()["trained"] == 8


def test_a_worker_from_elsewhere_that_outlives_the_trainer_changes_no_digit(
    unbroken: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    """`sdpo worker` is there before the run, the trainer is killed, the next one gets it back."""
    folder = tmp_path / "run"
    worker = runs.start_command("worker", str(folder), "--name", "cell")
    others = ("rollout.workers.count=0", "rollout.workers.listen_address=127.0.0.1")
    process = runs.start([*runs.overrides(tiny_llama, folder), *others])
    runs.wait_until(lambda: MOMENTS["while-sampling"](folder), process)
    runs.kill(process)
    output = runs.finish(runs.start(["--resume", str(folder)]))
    assert "rollout worker cell has joined" in output
    assert runs.numbers(folder) == runs.numbers(unbroken)
    assert audit(folder, per_step=2, eta=0).sums()["trained"] == 8
    worker.send_signal(signal.SIGTERM)
    assert runs.finish(worker).count("a trainer is there") == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here: needs root and CAP_SYS_ADMIN")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_run_which_goes_on_once_there_is_space(
    unbroken: Path, tiny_llama: Path, small_disk: Path
) -> None:
    folder, ballast = small_disk / "run", small_disk / "ballast"
    process = runs.start(runs.overrides(tiny_llama, folder))
    runs.wait_until(lambda: (folder / "checkpoints/step-000002/complete.json").exists(), process)
    _fill(ballast)
    output = runs.finish(process, code=FAILED)
    assert "No space left on device" in output, output
    assert "ree space or" in output or "ree some space" in output, output
    ballast.unlink()
    output = runs.finish(runs.start(["--resume", str(folder)]))
    assert "resumed after step" in output
    assert runs.numbers(folder) == runs.numbers(unbroken)


def _fill(file: Path) -> None:
    """Writes to `file` until not a byte more fits."""
    with file.open("wb", buffering=0) as handle, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while handle.write(b"x" * size):
                    pass


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""
