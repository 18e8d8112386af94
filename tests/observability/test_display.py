"""What is written, character by character: plain lines, and the live view on a narrow terminal."""

from __future__ import annotations

import io
import math
import re

import pytest
from rich.cells import cell_len

from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.display import Display
from sdpo_megatron.observability.example import Example
from sdpo_megatron.observability.metrics import reconcile
from sdpo_megatron.observability.step_row import (
    fitting_columns,
    header_rows,
    plain_row,
    step_row,
)

REPORT = StepReport(
    step=3,
    policy_version=3,
    metrics=reconcile(
        {
            "rollout/success_rate": 0.625,
            "rollout/reward_mean": 0.7,
            "rollout/response_tokens_mean": 41.26,
            "rollout/tokens_per_s": 113.4,
            "train/loss": 0.04125,
            "teacher/gain_failed": -0.3124,
            "time/rollout_s": 9.13,
            "time/step_s": 17.26,
            "memory/all_bytes": 8.5 * 2**30,
        },
        strict=False,
    ),
)
HOSTILE = Example(
    question_id="HumanEval/28",
    index=2,
    text="return [bold red]x[/]\x1b[2J",
    success=False,
    feedback="Got: \x1b]0;owned\x07",
)


def _plain(report: StepReport, example: Example | None = None) -> list[str]:
    file = io.StringIO()
    with Display(6, file=file) as display:
        display.step(report, example)
    return file.getvalue().split("\n")


def test_a_plain_line_holds_every_column_by_name() -> None:
    assert plain_row(REPORT).split() == [
        "step=3", "success=0.625", "reward=0.70", "loss=0.0413", "teacher_on_failed=-0.312",
        "teacher_on_solved=-", "length=41.3", "tokens_per_s=113", "rollout_s=9.1", "verify_s=-",
        "teacher_s=-", "student_s=-", "optimizer_s=-", "publish_s=-", "checkpoint_s=-",
        "step_s=17.3", "memory_gib=8.5",
    ]  # fmt: skip


def test_plain_lines_are_aligned() -> None:
    other = StepReport(step=120, policy_version=1, metrics=reconcile({}, strict=False))
    starts = [[m.start() for m in re.finditer(r"\w+=", plain_row(r))] for r in (REPORT, other)]
    assert starts[0] == starts[1]


def test_without_a_terminal_there_are_no_escape_sequences() -> None:
    file = io.StringIO()
    with Display(6, file=file) as display:
        assert display.plain
        display.message("engine is up")
        display.warn("port 9400 is in use")
        with display.phase("sampling", total=2) as phase:
            phase.advance()
        display.step(REPORT, HOSTILE)
    text = file.getvalue()
    assert "\x1b" not in text
    assert re.search(r"^ +\d+\.\d s  engine is up$", text, re.MULTILINE)
    assert re.search(r"^ +\d+\.\d s  warning: port 9400 is in use$", text, re.MULTILINE)
    assert len(re.findall(r"^step=", text, re.MULTILINE)) == 1


def test_a_plain_example_shows_verdict_text_and_feedback_without_interpreting_them() -> None:
    lines = _plain(REPORT, HOSTILE)
    start = lines.index("example: step 3, HumanEval/28, attempt 2: failed")
    assert lines[start + 1] == r"  | return [bold red]x[/]\x1b[2J"
    assert lines[start + 2] == r"  > Got: \x1b]0;owned\x07"


def test_long_examples_are_clipped_and_say_so() -> None:
    text = "\n".join(f"line {n}" for n in range(40)) + "y" * 10_000
    example = Example(question_id="q", index=0, text=text, success=True)
    shown = [line for line in _plain(REPORT, example) if line.startswith("  | ")]
    assert shown[:2] == ["  | line 0", "  | line 1"]
    assert shown[-1] == "  | (28 more lines)"
    one_line = Example(question_id="q", index=0, text="y" * 10_000, success=True)
    assert max(map(len, _plain(REPORT, one_line))) < 400


def test_a_message_may_hold_anything() -> None:
    file = io.StringIO()
    with Display(1, file=file) as display:
        display.message("path [/tmp/x] is \x1b[31mbad\nsecond line")
    first, second, _ = file.getvalue().split("\n")
    assert first.endswith(r"path [/tmp/x] is \x1b[31mbad")
    assert second.strip() == "second line"
    assert second.index("second") == first.index("path")


def test_the_legend_comes_once() -> None:
    file = io.StringIO()
    with Display(6, file=file) as display:
        display.step(REPORT)
        display.step(REPORT)
    assert file.getvalue().count("teacher on failed, solved:") == 1


@pytest.mark.parametrize("width", [30, 80, 100, 200])
def test_header_and_row_fit_the_terminal_and_each_other(width: int) -> None:
    columns = fitting_columns(width)
    upper, lower = header_rows(columns)
    row = step_row(REPORT, columns)
    assert cell_len(lower.plain) == cell_len(row.plain) <= width
    assert cell_len(upper.plain) == cell_len(row.plain)


def test_a_wide_terminal_gets_every_column_and_80_cells_the_ones_that_matter() -> None:
    assert len(fitting_columns(200)) == 15
    titles = [column.title for column in fitting_columns(80)]
    assert titles == ["loss", "failed", "solved", "tokens", "tok/s", "step", "GiB"]


@pytest.mark.parametrize(
    ("rate", "cell"),
    [
        (0.0, "░░░░░░░░   0 %"),
        (0.5, "████░░░░  50 %"),
        (1.0, "████████ 100 %"),
        (math.nan, "░░░░░░░░     -"),
    ],
)
def test_success_is_a_bar_and_a_number(rate: float, cell: str) -> None:
    report = StepReport(step=1, policy_version=1, metrics={"rollout/success_rate": rate})
    assert step_row(report, ()).plain == f"    1  {cell}"


def test_the_sign_of_the_teachers_gain_is_coloured_by_what_is_good() -> None:
    def styles(failed: float, solved: float) -> list[str]:
        metrics = {"teacher/gain_failed": failed, "teacher/gain_success": solved}
        report = StepReport(step=1, policy_version=1, metrics=metrics)
        row = step_row(report, fitting_columns(200))
        return [str(span.style) for span in row.spans if str(span.style) in ("green", "red")][-2:]

    assert styles(-1.0, 1.0) == ["green", "green"]
    assert styles(1.0, -1.0) == ["red", "red"]


def _terminal(width: int) -> tuple[Display, io.StringIO]:
    file = io.StringIO()
    return Display(6, plain=False, file=file, width=width), file


def test_the_live_view_shows_phase_progress_and_the_table() -> None:
    display, file = _terminal(130)
    with display:
        with display.phase("sampling", total=32) as phase:
            phase.advance(17)
            with display.phase("judging"):
                pass
        display.step(REPORT, HOSTILE)
    text = file.getvalue()
    assert "sampling 17/32" in text
    assert "█████" in text
    assert "62 %" in text
    assert "step 3, HumanEval/28, attempt 2: failed" in text
    assert r"[bold red]x[/]\x1b[2J" in text
    assert "\x1b[2J" not in text
    assert "\x1b]0;owned" not in text


def test_the_cursor_is_given_back_when_the_block_raises() -> None:
    display, file = _terminal(100)
    with pytest.raises(RuntimeError, match="boom"), display, display.phase("teacher pass"):
        raise RuntimeError("boom")
    text = file.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_the_header_returns_after_twenty_steps() -> None:
    display, file = _terminal(130)
    with display:
        for _ in range(21):
            display.step(REPORT)
    assert file.getvalue().count("success") == 2


def test_a_reader_that_has_gone_silences_the_display_and_nothing_else() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Display(2, plain=True, file=Gone()) as display:
        display.message("hello")
        display.message("again")
