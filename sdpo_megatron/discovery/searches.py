"""A search: attempts at one question, from one seed, until the first success or the budget."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import ConfigError

SEARCHES = "searches.jsonl"
"""Of a run folder: a line for each finished search."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What one search came to.

    Attributes:
        method: sdpo, best_of_k or multi_turn.
        question_id: What was searched for.
        seed: Of the sampling.
        budget: Attempts that were allowed.
        attempts: Attempts that were made: up to the end of the batch that held the first success.
        found_at: Number of the first successful attempt, from 1; None when there was none.
        solution: Its text; "" when there was none.
        seconds: Wall time.
        successes: Of all attempts; more than one only where a method does not stop at the first.
    """

    method: str
    question_id: str
    seed: int
    budget: int
    attempts: int
    found_at: int | None
    solution: str = ""
    seconds: float = 0.0
    successes: int = 0

    def __post_init__(self) -> None:
        if self.found_at is not None and not 1 <= self.found_at <= self.attempts:
            raise ValueError(
                f"{self.question_id}: found at attempt {self.found_at} of {self.attempts}"
            )


def write_line(search: Search) -> str:
    """A line of searches.jsonl, without its end."""
    return json.dumps(asdict(search))


def read_searches(path: Path) -> list[Search]:
    """The searches in a file, the last of each method, question and seed; a torn last line is left
    out.

    Raises:
        ConfigError: A line before the last is not one.
    """
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")
    found: dict[tuple[str, str, int], Search] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            search = Search(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}:{number}: is no search: {error}") from error
        found[search.method, search.question_id, search.seed] = search
    return list(found.values())


def by_question(searches: Iterable[Search], method: str) -> Mapping[str, list[Search]]:
    """The searches of a method, by question."""
    found: dict[str, list[Any]] = {}
    for search in searches:
        if search.method == method:
            found.setdefault(search.question_id, []).append(search)
    return found
