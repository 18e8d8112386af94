"""The file of judged attempts: a line for each question, appended when all its attempts are judged.

It holds what was asked, too: the same command goes on where it stopped, another one is refused.
Texts are kept, so that anybody can score the same attempts again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.files import write_whole
from sdpo_megatron.nouns import Group

__all__ = ["Asked", "Evaluation", "JudgedAttempt", "JudgedQuestion"]

Asked = Mapping[str, Any]
"""What decides the numbers: model, tasks, sampling."""


@dataclass(frozen=True, kw_only=True)
class JudgedAttempt:
    """One attempt; its fields are those of `nouns.Attempt` and `nouns.Verdict`."""

    success: bool
    reward: float
    format_ok: bool
    tokens: int
    finish: str
    text: str
    feedback: str


@dataclass(frozen=True, kw_only=True)
class JudgedQuestion:
    """A question with its attempts; `dropped` ones could not be judged. `difficulty` is "" where
    the task's file tells none.
    """

    task: str
    question: str
    difficulty: str
    dropped: int
    attempts: tuple[JudgedAttempt, ...]

    @classmethod
    def of(cls, task: str, group: Group, difficulty: str = "") -> JudgedQuestion:
        """What is kept of a group."""
        pairs = zip(group.attempts, group.verdicts, strict=True)
        return cls(
            task=task,
            question=group.question.id,
            difficulty=difficulty,
            dropped=group.dropped,
            attempts=tuple(
                JudgedAttempt(
                    success=verdict.success,
                    reward=verdict.reward,
                    format_ok=verdict.format_ok,
                    tokens=len(attempt.response_ids),
                    finish=attempt.finish_reason,
                    text=attempt.text,
                    feedback=verdict.feedback,
                )
                for attempt, verdict in pairs
            ),
        )


class Evaluation:
    """The folder of one evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked = folder / "asked.json"
        self._attempts = folder / "attempts.jsonl"

    def begin(self, asked: Asked) -> None:
        """Make the folder, or go on in it; a line that a kill has torn is dropped.

        Raises:
            ConfigError: The folder holds an evaluation that asked something else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._asked.is_file():
            before = json.loads(self._asked.read_text(encoding="utf-8"))
            other = [
                f"{key}: {before.get(key)!r} -> {asked.get(key)!r}"
                for key in sorted({*before, *asked})
                if before.get(key) != asked.get(key)
            ]
            if other:
                raise ConfigError(
                    f"{self.folder} holds an evaluation of something else ({'; '.join(other)}); "
                    "choose another --output"
                )
        else:
            write_whole(self._asked, json.dumps(asked, indent=2) + "\n")
        if self._attempts.is_file():
            lines = self._attempts.read_text(encoding="utf-8").splitlines(keepends=True)
            write_whole(self._attempts, "".join(line for line in lines if line.endswith("\n")))

    def append(self, questions: Sequence[JudgedQuestion]) -> None:
        """Record them; on the disk when this returns."""
        text = "".join(json.dumps(asdict(question)) + "\n" for question in questions)
        with self._attempts.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def asked(self) -> dict[str, Any]:
        """What was asked.

        Raises:
            ConfigError: This is no folder of an evaluation.
        """
        if not self._asked.is_file():
            raise ConfigError(f"{self.folder} is no evaluation: it holds no {self._asked.name}")
        found: dict[str, Any] = json.loads(self._asked.read_text(encoding="utf-8"))
        return found

    def questions(self) -> list[JudgedQuestion]:
        """What is judged so far, in the order in which it was."""
        if not self._attempts.is_file():
            return []
        lines = self._attempts.read_text(encoding="utf-8").splitlines(keepends=True)
        return [_question(json.loads(line)) for line in lines if line.endswith("\n")]


def _question(plain: dict[str, Any]) -> JudgedQuestion:
    attempts = tuple(JudgedAttempt(**attempt) for attempt in plain["attempts"])
    return JudgedQuestion(**{**plain, "attempts": attempts})
