"""Attempts as student and teacher saw them, token by token: one file for each step, for people.

``token_scores/step-000012.jsonl.zst`` holds a header line and one line for each attempt, as
`to_json` makes it. Nothing of a run depends on these files: one that is torn or missing is an
attempt without colours in the report.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import zstandard

from sdpo_megatron.files import write_whole
from sdpo_megatron.nouns import ScoredAttempt
from sdpo_megatron.rollout.tokenizer import Tokenizer

FORMAT = 1
_LEVEL = 3
_CONTEXT_TOKENS = 8  # of the prompt: enough to hold any character that a response continues
_INCOMPLETE = "\ufffd"


class TokenScoreStore:
    """The files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where the scores of `step` are."""
        return self.folder / f"step-{step:06d}.jsonl.zst"

    def write(self, step: int, attempts: Sequence[ScoredAttempt], tokenizer: Tokenizer) -> None:
        """Record a step, replacing what was there.

        Raises:
            OSError: A full disk, say.
        """
        piece = alternative_pieces(tokenizer)
        header = {"format": FORMAT, "step": step, "attempts": len(attempts)}
        lines = [header, *(to_json(attempt, tokenizer, piece) for attempt in attempts)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self.folder.mkdir(exist_ok=True)
        write_whole(self.path(step), zstandard.compress(text.encode(), _LEVEL))

    def read(self, step: int) -> list[dict[str, Any]]:
        """What `to_json` made of the attempts of a step; [] where there is no file that can be
        read.
        """
        try:
            data = self.path(step).read_bytes()
            stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data))
            header, *rows = [json.loads(line) for line in stream.read().decode().splitlines()]
        except (OSError, ValueError, zstandard.ZstdError):
            return []
        return rows if header.get("format") == FORMAT else []


def to_json(
    attempt: ScoredAttempt, tokenizer: Tokenizer, piece: Callable[[int], str]
) -> dict[str, Any]:
    """The attempt with texts in place of most ids, so that a reader needs no tokenizer.

    `pieces` are the texts of all response tokens, which joined are the response; the three lists
    after it are those of `ScoredAttempt`. Control tokens are spelled out.
    """
    return {
        "question_id": attempt.question_id,
        "index": attempt.index,
        "response_ids": attempt.response_ids,
        "prompt": tokenizer.decode(list(attempt.prompt_ids)),
        "teacher_prompt": tokenizer.decode(list(attempt.teacher_prompt_ids)),
        "pieces": response_pieces(tokenizer, attempt.prompt_ids, attempt.response_ids),
        "student": attempt.student,
        "teacher": attempt.teacher,
        "alternatives": [
            [(piece(token), log_q, log_pi) for token, log_q, log_pi in others]
            for others in attempt.alternatives
        ],
    }


def response_pieces(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], response_ids: Sequence[int]
) -> list[str]:
    """The text of each response token; a character of several tokens goes with its last one."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(ids=list(prompt_ids[-_CONTEXT_TOKENS:]), skip_special_tokens=False)
    pieces = [stream.step(tokenizer.backend_tokenizer, token) for token in response_ids]
    if pieces and pieces[-1] is None:  # the response ends inside a character
        pieces[-1] = _INCOMPLETE
    return [piece or "" for piece in pieces]


def alternative_pieces(tokenizer: Tokenizer) -> Callable[[int], str]:
    """id -> its text in the middle of a response: a space that it begins with is kept."""
    anchor = tokenizer.encode("a", add_special_tokens=False)
    before = str(tokenizer.decode(anchor))

    @cache
    def piece(token: int) -> str:
        return str(tokenizer.decode([*anchor, token])).removeprefix(before)

    return piece
