"""A few attempts of each step as student and teacher saw them, kept for the run's report.

The last pipeline stage scores them beside the loss, where the hidden states of both are at hand;
rank 0 gets the numbers once a step. With a limit of 0 nothing is computed and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest

import torch

from sdpo_megatron.nouns import ScoredAttempt, TrainSample
from sdpo_megatron.objectives import HeadOptions, TeacherTarget
from sdpo_megatron.objectives.fused.token_scores import TokenScores, head_token_scores

ALTERNATIVES = 4
"""Tokens of the teacher's that are kept beside each sampled one."""
MOST_TOKENS = 2048
"""Of an attempt; what follows is not scored."""
_LEAST = -4.6  # log of 1 %: nobody looks at an alternative below it
_DIGITS = 4

Key = tuple[str, int]


def choose(samples: Sequence[TrainSample], limit: int) -> list[Key]:
    """Up to `limit` attempts that have a teacher, spread over the questions: of each in turn a
    failed one, then a solved one, and so on.
    """
    queues: dict[str, tuple[list[Key], list[Key]]] = {}
    for sample in samples:
        if sample.distill_weight and sample.teacher_prompt_ids is not None:
            queue = queues.setdefault(sample.question_id, ([], []))
            queue[sample.success].append((sample.question_id, sample.index))
    each = [list(chain(*zip_longest(*queue))) for queue in queues.values()]
    in_turn = (key for row in zip_longest(*([k for k in q if k] for q in each)) for key in row)
    return [key for key in in_turn if key is not None][:limit]


class TokenScoring:
    """Scores the chosen attempts of one rollout batch. Every rank has one, of the same samples."""

    def __init__(self, samples: Sequence[TrainSample], limit: int) -> None:
        self._chosen = set(choose(samples, limit)) if limit else set()
        self._samples = {
            (s.question_id, s.index): s for s in samples if (s.question_id, s.index) in self._chosen
        }
        self._found: list[tuple[list[tuple[Key, int]], TokenScores]] = []

    def score(
        self,
        samples: Sequence[TrainSample],
        rows: torch.Tensor | None,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        teacher: TeacherTarget | None,
        options: HeadOptions,
    ) -> None:
        """Look at a micro-batch; collective over the tensor-parallel group.

        Args:
            samples: Of the micro-batch.
            rows: The response tokens that this context-parallel rank holds; None for all.
            hidden: [T, H] of these tokens.
            weight: Of the head.
            teacher: The target at the same tokens; None where the objective has none.
            options: Of the loss.
        """
        if teacher is None or not any((s.question_id, s.index) in self._chosen for s in samples):
            return
        place = [
            ((s.question_id, s.index), position)
            for s in samples
            for position in range(len(s.response_ids))
        ]
        ids = [token for s in samples for token in s.response_ids]
        held = range(len(place)) if rows is None else rows.tolist()
        wanted = [
            (row, token)
            for row, token in enumerate(held)
            if place[token][0] in self._chosen and place[token][1] < MOST_TOKENS
        ]
        if not wanted:
            return
        chosen = torch.tensor([row for row, _ in wanted], device=hidden.device)
        scores = head_token_scores(
            hidden.detach()[chosen],
            weight.detach(),
            torch.tensor([ids[token] for _, token in wanted], device=hidden.device),
            replace(teacher, heads=[replace(h, hidden=h.hidden[chosen]) for h in teacher.heads]),
            ALTERNATIVES,
            options,
        )
        self._found.append(([place[token] for _, token in wanted], scores))

    def gathered(self) -> list[ScoredAttempt]:
        """What all ranks have found, on rank 0, in the order of the samples; [] elsewhere.
        Collective over all ranks.
        """
        from megatron.core import parallel_state

        first = parallel_state.get_tensor_model_parallel_rank() == 0
        mine = [entry for part in self._found for entry in _plain(*part)] if first else []
        here = torch.distributed.get_rank() == 0
        parts: list[list[_Token]] | None = (
            [[] for _ in range(torch.distributed.get_world_size())] if here else None
        )
        torch.distributed.gather_object(mine, parts, dst=0)
        by_key: dict[Key, dict[int, _Token]] = {}
        for entry in chain(*(parts or [])):
            by_key.setdefault(entry[0], {})[entry[1]] = entry
        return [self._attempt(key, by_key[key]) for key in self._samples if key in by_key]

    def _attempt(self, key: Key, found: dict[int, _Token]) -> ScoredAttempt:
        sample = self._samples[key]
        tokens = [found[position] for position in sorted(found)]
        assert sample.teacher_prompt_ids is not None
        return ScoredAttempt(
            question_id=sample.question_id,
            index=sample.index,
            prompt_ids=sample.prompt_ids,
            teacher_prompt_ids=sample.teacher_prompt_ids,
            response_ids=sample.response_ids,
            student=tuple(token[2] for token in tokens),
            teacher=tuple(token[3] for token in tokens),
            alternatives=tuple(token[4] for token in tokens),
        )


Alternatives = tuple[tuple[int, float, float], ...]
_Token = tuple[Key, int, float, float, Alternatives]


def _plain(place: list[tuple[Key, int]], scores: TokenScores) -> list[_Token]:
    """Token by token, as plain numbers."""
    columns = (scores.student, scores.teacher, scores.alternatives)
    student, teacher, ids = (column.tolist() for column in columns)
    at = zip(ids, scores.teacher_at.tolist(), scores.student_at.tolist(), strict=True)
    alternatives = [
        tuple(
            (token, round(log_q, _DIGITS), round(log_pi, _DIGITS))
            for token, log_q, log_pi in zip(*rows, strict=True)
            if log_q > _LEAST
        )
        for rows in at
    ]
    return [
        (key, position, round(log_pi, _DIGITS), round(log_q, _DIGITS), others)
        for (key, position), log_pi, log_q, others in zip(
            place, student, teacher, alternatives, strict=True
        )
    ]
