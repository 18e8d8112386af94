"""What a person sees while a run goes on: start-up messages, phases, a table of steps, examples.

On a terminal each finished step is a line of a table that scrolls like a log, and under it a few
live lines show one example attempt and the current phase. Elsewhere everything is plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.example import Example, for_terminal
from sdpo_megatron.observability.step_row import (
    LEGEND,
    fitting_columns,
    header_rows,
    plain_row,
    step_row,
)

__all__ = ["Display", "Phase"]

T = TypeVar("T")
_HEADER_EVERY = 20  # steps; a long run scrolls its header away
_EXAMPLE_LINES = 12
_FEEDBACK_LINES = 6
_LINE_CHARS = 240  # of a shown line; a model can write without any line feed
_SLOW_PHASE_S = 3.0  # in plain lines, a start-up phase that took longer is worth a line


class _Lasting:
    """A text stream that is silent, not broken, once its reader has gone (``| head``, a lost
    terminal): training goes on, and rich would end the process.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    def write(self, text: str) -> int:
        return self._attempt(lambda: self._stream.write(text), len(text))

    def flush(self) -> None:
        self._attempt(self._stream.flush, None)

    def _attempt(self, action: Callable[[], T], otherwise: T) -> T:
        if self._gone:
            return otherwise
        try:
            return action()
        except OSError:
            self._gone = True
            return otherwise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Phase:
    """A phase in progress. `advance` may be called from any thread."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self.started = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self.done += count

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def __str__(self) -> str:
        return self.name if self.total is None else f"{self.name} {self.done}/{self.total}"


class Display:
    """Use as a context manager; whatever ends the block, the terminal is left in order.

    Args:
        total_steps: Last step of the run, for "step 3 of 12".
        plain: Plain lines instead of the live view; None: when `file` is no capable terminal.
        file: Where to write; standard output by default.
        width: Cells of a line; None: the terminal's.
    """

    def __init__(
        self,
        total_steps: int,
        plain: bool | None = None,
        *,
        file: TextIO | None = None,
        width: int | None = None,
    ) -> None:
        self._console = Console(
            file=cast("TextIO", _Lasting(file or sys.stdout)),
            width=width, highlight=False, markup=False, emoji=False,
            force_terminal=True if plain is False else None,
        )  # fmt: skip
        capable = self._console.is_terminal and not self._console.is_dumb_terminal
        self.plain = not capable if plain is None else plain
        self._total_steps = total_steps
        self._started = time.monotonic()
        self._steps_shown = 0
        self._next_step: int | None = None
        self._phases: list[Phase] = []
        self._example: tuple[int, Example] | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=self._console,
            get_renderable=self._footer,
            refresh_per_second=8,
            transient=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Display:
        if not self.plain:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._phases.clear()
        if not self.plain:
            self._live.stop()

    def message(self, text: str) -> None:
        """One line about what has happened, with the seconds since the run began."""
        self._line(text, style="")

    def warn(self, text: str) -> None:
        """The same, marked as a warning; training goes on."""
        self._line(f"warning: {text}", style="yellow")

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        """Shows `name` (and "17/32" with a bar when `total` is given) while the block runs."""
        phase = Phase(name, total)
        self._phases.append(phase)
        self._redraw()
        try:
            yield phase
        finally:
            if phase in self._phases:
                self._phases.remove(phase)
            self._redraw()
            if self.plain and not self._steps_shown and phase.elapsed_s > _SLOW_PHASE_S:
                self.message(f"{phase}: {phase.elapsed_s:.0f} s")

    def step(self, report: StepReport, example: Example | None = None) -> None:
        """Adds a finished step to the table, and shows `example` with its verdict."""
        if not self._steps_shown:
            self._print(Text("\n" + LEGEND + ("\n" if self.plain else ""), style="dim"))
        if self.plain:
            self._print(Text(plain_row(report)))
            if example is not None:
                self._print(_plain_example(report.step, example))
        else:
            columns = fitting_columns(self._console.width)
            if self._steps_shown % _HEADER_EVERY == 0:
                self._print(Text())
                for line in header_rows(columns):
                    self._print(line)
            self._print(step_row(report, columns))
            if example is not None:
                self._example = (report.step, example)
        self._steps_shown += 1
        self._next_step = report.step + 1
        self._redraw()

    def _line(self, text: str, style: str) -> None:
        elapsed = f"{time.monotonic() - self._started:7.1f} s  "
        first, *more = for_terminal(text).split("\n") or [""]
        line = Text.assemble((elapsed, "dim"), (first, style))
        for extra in more:
            line.append("\n" + " " * len(elapsed)).append(extra, style)
        self._print(line)

    def _print(self, line: Text) -> None:
        # soft_wrap: a log line is never broken by us; on a terminal the table was fitted already.
        self._console.print(line, soft_wrap=True)
        if self.plain:
            self._console.file.flush()

    def _redraw(self) -> None:
        """Shows a change at once instead of at the next tick."""
        if self._live.is_started:
            self._live.refresh()

    def _footer(self) -> RenderableType:
        """The live lines under the table, drawn anew several times a second."""
        parts: list[RenderableType] = []
        if self._example is not None:
            # The phase lines below must stay in view on a low terminal.
            room = self._console.height - 6 - len(self._phases)
            parts.append(_example_panel(*self._example, room))
        for phase in tuple(self._phases):
            parts.append(self._phase_line(phase))
        return Group(*parts)

    def _phase_line(self, phase: Phase) -> RenderableType:
        line = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [self._spinner]
        if self._next_step is not None and self._next_step <= self._total_steps:
            cells.append(Text(f"step {self._next_step} of {self._total_steps}", style="dim"))
        cells.append(Text(str(phase)))
        if phase.total:
            cells.append(
                ProgressBar(
                    total=phase.total,
                    completed=phase.done,
                    width=24,
                    complete_style="cyan",
                    finished_style="cyan",
                )
            )
        line.add_row(*cells, Text(f"{phase.elapsed_s:.0f} s", style="dim"))
        return line


def _clipped(text: str, num_lines: int) -> list[str]:
    """The first lines of `text`, for_terminal, and a note of how many more there are."""
    lines = [line[:_LINE_CHARS] for line in for_terminal(text).strip("\n").split("\n")]
    rest = len(lines) - num_lines
    return lines if rest <= 0 else [*lines[:num_lines], f"({rest} more lines)"]


def _title(step: int, example: Example) -> str:
    verdict = "solved" if example.success else "failed"
    return f"step {step}, {for_terminal(example.question_id)}, attempt {example.index}: {verdict}"


def _example_panel(step: int, example: Example, room: int) -> RenderableType:
    color = "green" if example.success else "red"
    num_feedback = min(_FEEDBACK_LINES, max(1, room // 3)) if example.feedback else 0
    num_lines = min(_EXAMPLE_LINES, max(1, room - num_feedback))
    body = Text("\n".join(_clipped(example.text, num_lines)), no_wrap=True, overflow="ellipsis")
    if example.feedback:
        body.append("\n\n")
        body.append("\n".join(_clipped(example.feedback, num_feedback)), style=color)
    title = Text(_title(step, example), style=f"not dim {color}")
    return Panel(body, title=title, title_align="left", border_style="dim")


def _plain_example(step: int, example: Example) -> Text:
    lines = [f"example: {_title(step, example)}"]
    lines += [f"  | {line}" for line in _clipped(example.text, _EXAMPLE_LINES)]
    if example.feedback:
        lines += [f"  > {line}" for line in _clipped(example.feedback, _FEEDBACK_LINES)]
    return Text("\n".join(lines))
