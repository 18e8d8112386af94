"""Batch: every line once, shards that cover exactly, restarts that lose at most a part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError, TaskFileError
from sdpo_megatron.judging.offline import basis
from sdpo_megatron.judging.offline.batch import run_batch
from sdpo_megatron.judging.offline.config import OfflineConfig, shard_of
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.tasks import TaskConfig, load_task
from sdpo_megatron.verifiers.code import CodeVerifierConfig

OBEYS = "tests.judging.own_verifiers:Obeys"


def write_input(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def obeying(texts: list[str]) -> list[dict[str, Any]]:
    return [
        {"id": f"line {n}", "verifier": OBEYS, "item": {}, "response": text}
        for n, text in enumerate(texts)
    ]


def results(output: Path) -> list[dict[str, Any]]:
    parts = sorted(output.glob("shard-*/part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def quiet(config: OfflineConfig) -> tuple[int, list[str]]:
    told: list[str] = []
    return run_batch(config, announce=told.append), told


def choices(count: int) -> list[dict[str, Any]]:
    """Line n is right exactly when n is even."""
    return [
        {
            "id": n,
            "verifier": "multiple_choice",
            "item": {"answer": "A"},
            "response": f"<answer>{'AB'[n % 2]}</answer>",
        }
        for n in range(count)
    ]


def test_each_line_gets_one_verdict_in_order_and_in_parts(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", choices(10))
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"), part_size=4)
    code, told = quiet(config)
    assert code == 0
    got = results(tmp_path / "out")
    assert [line["id"] for line in got] == [str(n) for n in range(10)]
    assert [line["verdict"]["success"] for line in got] == [n % 2 == 0 for n in range(10)]
    shard = tmp_path / "out" / "shard-00000-of-00001"
    assert len(list(shard.glob("part-*.jsonl"))) == 3
    done = json.loads((shard / "_DONE.json").read_text())
    assert done == {"lines": 10, "successes": 5, "failed": 0}
    assert told[-1].startswith("shard 0/1: 10 lines, 5 successes, 0 failed, 0 from before")


def test_shards_cover_every_line_exactly_once(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", choices(11))
    for shard in range(3):
        config = OfflineConfig(
            input=str(source), output=str(tmp_path / "out"), shard=shard, num_shards=3
        )
        assert quiet(config)[0] == 0
    ids = [int(line["id"]) for line in results(tmp_path / "out")]
    assert ids == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8]


def test_a_second_run_judges_only_what_failed_before(tmp_path: Path) -> None:
    marker = tmp_path / "died"
    texts = ["fine", "print", f"die-once {marker}", "fine"]
    source = write_input(tmp_path / "in.jsonl", obeying(texts))
    config = OfflineConfig(
        input=str(source), output=str(tmp_path / "out"), part_size=2, workers=1, retries=0
    )
    code, told = quiet(config)
    assert code == 1
    assert "3 successes, 1 failed" in told[-1]
    before = results(tmp_path / "out")
    assert before[2]["failure"]["kind"] == "VerifierUnavailable"
    code, told = quiet(config)
    assert code == 0
    assert "4 lines, 4 successes, 0 failed, 3 from before" in told[-1]
    after = results(tmp_path / "out")
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]


def test_killed_at_any_moment_it_resumes_without_a_torn_part(tmp_path: Path) -> None:
    texts = [f"sleep 0.0{n % 7}" for n in range(48)]
    source = write_input(tmp_path / "in.jsonl", obeying(texts))
    output = tmp_path / "out"
    command = [sys.executable, "-m", "sdpo_megatron.cli", "verify", "batch", f"input={source}"]
    command += [f"output={output}", "part_size=6", "workers=2"]
    path = os.pathsep.join(p for p in [os.getcwd(), os.environ.get("PYTHONPATH", "")] if p)
    parts_seen = []
    for wanted in (1, 3, 5):
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL
        )
        while len(list(output.glob("shard-*/part-*.jsonl"))) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = results(output)  # every part parses
        assert len(whole) % 6 == 0
        parts_seen.append(len(whole) // 6)
    assert parts_seen[0] >= 1
    assert parts_seen == sorted(parts_seen)
    last = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert last.returncode == 0, last.stderr
    got = results(output)
    assert [line["id"] for line in got] == [f"line {n}" for n in range(48)]
    assert all(line["verdict"]["success"] for line in got)


def test_lines_may_name_a_question_of_a_task(tmp_path: Path) -> None:
    of_task = TaskConfig(name="gsm8k", limit=3)
    task = load_task(of_task)
    lines = [
        {"question_id": q.id, "response": f"\\boxed{{{q.item['answer']}}}"} for q in task.questions
    ]
    source = write_input(tmp_path / "in.jsonl", [*lines, {**lines[0], "response": "none"}])
    code, _ = quiet(OfflineConfig(input=str(source), output=str(tmp_path / "out"), task=of_task))
    got = results(tmp_path / "out")
    assert code == 0
    assert [line["verdict"]["reward"] for line in got] == [1.0, 1.0, 1.0, 0.0]
    assert [line["id"] for line in got] == ["gsm8k/0#1", "gsm8k/1#2", "gsm8k/2#3", "gsm8k/0#4"]
    lines[1]["question_id"] = "gsm8k/999"
    other = write_input(tmp_path / "other.jsonl", lines)
    unknown = rf"other\.jsonl:2: there is no question 'gsm8k/999' among the 3 .* in {task.path}"
    with pytest.raises(TaskFileError, match=unknown):
        quiet(OfflineConfig(input=str(other), output=str(tmp_path / "out2"), task=of_task))


def own_task(folder: Path, split: str, answers: dict[str, str]) -> TaskConfig:
    """A task of the gsm8k layout in a file of its own."""
    folder.mkdir(exist_ok=True)
    lines = [
        {"id": name, "question": "How many?", "answer": f"so #### {answer}"}
        for name, answer in answers.items()
    ]
    write_input(folder / f"{split}.jsonl", lines)
    return TaskConfig(name="gsm8k", path=str(folder), split=split)


def test_the_split_of_a_task_is_chosen(tmp_path: Path) -> None:
    own_task(tmp_path / "data", "train", {"a": "1"})
    test = own_task(tmp_path / "data", "test", {"a": "2"})
    name = load_task(test).questions[0].id
    lines = [{"question_id": name, "response": f"\\boxed{{{n}}}", "id": n} for n in (1, 2)]
    source = write_input(tmp_path / "in.jsonl", lines)
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"), task=test)
    assert quiet(config)[0] == 0
    assert [line["verdict"]["success"] for line in results(tmp_path / "out")] == [False, True]


def test_no_verdict_of_another_task_file_is_kept(tmp_path: Path) -> None:
    task = own_task(tmp_path / "data", "train", {"a": "1", "b": "2"})
    first, second = (question.id for question in load_task(task).questions)
    lines = [{"question_id": name, "response": "\\boxed{1}"} for name in (first, second)]
    source = write_input(tmp_path / "in.jsonl", lines)
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"), task=task)
    assert quiet(config)[0] == 0
    assert [line["verdict"]["success"] for line in results(tmp_path / "out")] == [True, False]
    own_task(tmp_path / "data", "train", {"a": "2", "b": "1"})  # the same path, other answers
    with pytest.raises(ConfigError, match=r"made differently \(task\.file: .* then, .* now\)"):
        quiet(config)


def test_no_verdict_of_another_item_is_kept_whatever_the_basis_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layout of one's own may make other items of the same file: then they are judged anew."""
    monkeypatch.setattr(basis, "_of_file", lambda path: "the same")
    task = own_task(tmp_path / "data", "train", {"a": "1", "b": "1"})
    first, second = (question.id for question in load_task(task).questions)
    lines = [{"question_id": name, "response": "\\boxed{1}"} for name in (first, second)]
    source = write_input(tmp_path / "in.jsonl", lines)
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"), task=task)
    assert quiet(config)[0] == 0
    own_task(tmp_path / "data", "train", {"a": "1", "b": "2"})
    code, told = quiet(config)
    assert code == 0
    assert "2 lines, 1 successes, 0 failed, 1 from before" in told[-1]
    assert [line["verdict"]["success"] for line in results(tmp_path / "out")] == [True, False]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"part_size": 1}, "part_size: 256 then, 1 now"),
        ({"cpu_limit_s": 3}, "limits.cpu_limit_s: 10 then, 3 now"),
        ({"code": CodeVerifierConfig(reward="fraction")}, "limits.code.reward"),
        ({"sandbox": SandboxConfig(packages=("numpy",))}, "limits.sandbox.packages"),
        ({"task": TaskConfig(name="gsm8k", public_fraction=0.25)}, "task"),
    ],
)
def test_what_decides_a_verdict_decides_whether_it_is_kept(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    source = write_input(tmp_path / "in.jsonl", choices(2))
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"))
    assert quiet(config)[0] == 0
    with pytest.raises(ConfigError, match=named):
        quiet(replace(config, **change))
    assert quiet(replace(config, workers=1, retries=9))[0] == 0  # these decide nothing


def test_our_version_and_a_users_verifier_decide_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_input(tmp_path / "in.jsonl", obeying(["fine"]))
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"))
    assert quiet(config)[0] == 0
    with monkeypatch.context() as other:
        other.setattr(basis, "_our_code", lambda: "edited")
        with pytest.raises(ConfigError, match=r"versions\.code: .* then, \"edited\" now"):
            quiet(config)
    with monkeypatch.context() as other:
        other.setattr(basis, "_own_code", lambda name: "edited")
        with pytest.raises(ConfigError, match=r"verifiers\.tests\.judging\.own_verifiers:Obeys"):
            quiet(config)


def test_parts_without_a_basis_are_refused(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", choices(2))
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"))
    assert quiet(config)[0] == 0
    (tmp_path / "out" / "shard-00000-of-00001" / "_BASIS.json").unlink()
    with pytest.raises(ConfigError, match="says what they rest on"):
        quiet(config)


def test_a_line_that_fails_is_written_with_its_reason_and_the_run_goes_on(tmp_path: Path) -> None:
    lines = [
        {**line, "response": text, "verifier": verifier}
        for line, text, verifier in zip(
            obeying(["", "", "", "", ""]),
            ["raise", "fine", "die", "fine", "fine"],
            [OBEYS, OBEYS, OBEYS, "tests.judging.own_verifiers:Missing", OBEYS],
            strict=True,
        )
    ]
    lines.append({"id": "bad", "verifier": "multiple_choice", "item": {}, "response": "x"})
    source = write_input(tmp_path / "in.jsonl", lines)
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"), part_size=2, retries=0)
    for _ in range(2):
        assert quiet(config)[0] == 1
        failures = [(line["failure"] or {}).get("kind") for line in results(tmp_path / "out")]
        assert failures == [
            *("VerifierBroken", None, "VerifierUnavailable", "ConfigError", None),
            "BadItem",
        ]
    done = json.loads((tmp_path / "out" / "shard-00000-of-00001" / "_DONE.json").read_text())
    assert done == {"lines": 6, "successes": 2, "failed": 4}


def test_a_malformed_line_is_named_before_anything_is_judged(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    good = json.dumps(choices(1)[0])
    source.write_text(f"{good}\n\n{{broken\n")
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"))
    with pytest.raises(TaskFileError, match=r"in\.jsonl:3: not JSON: .* at column 2"):
        quiet(config)
    assert not (tmp_path / "out").exists()
    source.write_text(f"{good}\n{good}\n")
    with pytest.raises(TaskFileError, match=r"in\.jsonl:2: the id '0' is already used"):
        quiet(config)


def test_a_verifier_that_does_not_exist_is_named_with_its_line(tmp_path: Path) -> None:
    line = {**choices(1)[0], "verifier": "multiple_chioce"}
    source = write_input(tmp_path / "in.jsonl", [line])
    with pytest.raises(TaskFileError, match=r"in\.jsonl:1: unknown verifier 'multiple_chioce'"):
        quiet(OfflineConfig(input=str(source), output=str(tmp_path / "out")))


def test_an_output_of_another_input_is_refused(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", choices(2))
    config = OfflineConfig(input=str(source), output=str(tmp_path / "out"))
    assert quiet(config)[0] == 0
    write_input(source, choices(3))
    with pytest.raises(ConfigError, match=r"made differently \(input: "):
        quiet(config)


def test_the_shard_comes_from_the_variables_of_an_indexed_job() -> None:
    one = OfflineConfig(input="in", output="out")
    assert shard_of(one, {}) == (0, 1)
    indexed = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "8"}
    assert shard_of(one, indexed) == (2, 8)
    assert shard_of(one, {"JOB_COMPLETION_INDEX": "1", "SDPO_NUM_SHARDS": "3"}) == (1, 3)
    assert shard_of(replace(one, shard=3, num_shards=4), indexed) == (3, 4)
    with pytest.raises(ConfigError, match="the number of shards is unknown"):
        shard_of(one, {"JOB_COMPLETION_INDEX": "2"})
    with pytest.raises(ConfigError, match="not which one this is"):
        shard_of(replace(one, num_shards=4), {})
    with pytest.raises(ConfigError, match="JOB_COMPLETION_INDEX: expected a number, got 'two'"):
        shard_of(one, {"JOB_COMPLETION_INDEX": "two", "JOB_COMPLETIONS": "8"})
    with pytest.raises(ConfigError, match="expected 0 to 7 for 8 shards, got 8"):
        shard_of(replace(one, shard=8, num_shards=8))
