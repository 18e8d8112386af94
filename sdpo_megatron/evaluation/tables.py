"""Summaries and changes as text: Markdown that is aligned, for a terminal and for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sdpo_megatron.evaluation.estimates import Estimate
from sdpo_megatron.evaluation.summary import Change, Part, Summary

__all__ = ["changes_table", "summary_table"]

_MOST_NAMED = 8
_SHOWN_KS = 3  # of pass@k, the largest


def summary_table(summaries: Sequence[Summary]) -> str:
    """A row for each task and difficulty; intervals are 95 % ones over questions."""
    ks = sorted({k for summary in summaries for k in summary.passed if k > 1})[-_SHOWN_KS:]
    heads = ["task", "questions", "attempts", "dropped", "avg@n"]
    heads += [f"pass@{k}" for k in ks] + ["format", "truncated", "tokens"]
    rows = [
        [
            f"{one.task}{f' / {one.difficulty}' if one.difficulty else ''}",
            str(one.questions),
            str(one.attempts),
            str(one.dropped),
            share(one.avg),
            *(share(one.passed[k]) if k in one.passed else "-" for k in ks),
            share(one.format_ok),
            share(one.truncated),
            number(one.tokens),
        ]
        for one in summaries
    ]
    return _aligned(heads, rows)


def changes_table(changes: Sequence[Change]) -> str:
    """Before and after, the paired difference with its interval, and whether that says anything."""
    if not changes:
        return "The two evaluations have no question in common.\n"
    heads = ["task", "measure", "before", "after", "difference", ""]
    rows = [
        [change.task, part.name, *_both(part), _said(part)]
        for change in changes
        for part in change.parts
    ]
    lines = [_aligned(heads, rows)]
    for change in changes:
        text = f"{change.task}: {change.questions} questions in both"
        text += f", {change.unlike} in one alone" if change.unlike else ""
        lines.append(f"{text}; solved before and not now: {_named(change.lost)}; ")
        lines.append(f"solved now and not before: {_named(change.gained)}.\n")
    return "\n".join([lines[0], "".join(lines[1:])])


def share(estimate: Estimate) -> str:
    """0.312 [0.250, 0.380]"""
    return _shown(estimate, "{:.3f}")


def number(estimate: Estimate) -> str:
    """123.4 [98.1, 150.2]"""
    return _shown(estimate, "{:.1f}")


def _shown(estimate: Estimate, form: str) -> str:
    if math.isnan(estimate.value):
        return "-"
    text = form.format(estimate.value)
    if math.isnan(estimate.low):
        return text
    return f"{text} [{form.format(estimate.low)}, {form.format(estimate.high)}]"


def _both(part: Part) -> list[str]:
    form = "{:.3f}" if part.is_share else "{:.1f}"
    signed = form.replace(":", ":+")
    return [form.format(part.before), form.format(part.after), _shown(part.difference, signed)]


def _said(part: Part) -> str:
    low, high = part.difference.low, part.difference.high
    if math.isnan(low):
        return "one question tells nothing"
    if low > 0:
        return "more"
    return "less" if high < 0 else "no clear change"


def _named(questions: Sequence[str]) -> str:
    if not questions:
        return "none"
    more = len(questions) - _MOST_NAMED
    names = ", ".join(questions[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"{len(questions)} ({names})"


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |\n"

    rule = f"| {' | '.join('-' * max(3, width) for width in widths)} |\n"
    return line(heads) + rule + "".join(line(row) for row in rows)
