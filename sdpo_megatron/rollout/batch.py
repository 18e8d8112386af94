"""From judged groups to what the actor trains on: teacher prompts, advantages and loss weights,
attempt by attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from sdpo_megatron.nouns import Group, Question, TeacherContext, TrainSample
from sdpo_megatron.objectives import Objective
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder


class BatchMaker:
    """Makes the samples of groups."""

    def __init__(self, teacher_prompts: TeacherPromptBuilder, objective: Objective) -> None:
        self._teacher_prompts = teacher_prompts
        self._objective = objective

    def make_group(
        self, group: Group, *, null_prompts: bool = False
    ) -> tuple[list[TrainSample], list[TeacherContext | None]]:
        """One sample and one teacher context (None: nothing to show the teacher) for each attempt
        with at least one token.

        An aborted attempt has no ending and its verdict says nothing, so it is given no weight.
        `null_prompts` asks for the template without content even where the objective does not need
        it (a diagnostic).
        """
        needs_teacher = self._objective.needs_teacher
        contexts = (
            self._teacher_prompts.contexts(group)
            if needs_teacher
            else (None,) * len(group.attempts)
        )
        weights = self._objective.weigh(
            [verdict.reward for verdict in group.verdicts],
            [verdict.success for verdict in group.verdicts],
            [context is not None for context in contexts],
        )
        null = None
        if self._objective.needs_null_teacher or (null_prompts and needs_teacher):
            null = np.asarray(
                self._teacher_prompts.null_context(group.question).prompt_ids, np.int32
            )
        samples, kept = [], []
        for attempt, verdict, context, weight in zip(
            group.attempts, group.verdicts, contexts, weights, strict=True
        ):
            if not attempt.response_ids:
                continue
            counted = attempt.finish_reason != "abort"
            prompt = np.asarray(attempt.prompt_ids, np.int32)
            samples.append(
                TrainSample(
                    question_id=attempt.question_id,
                    index=attempt.index,
                    prompt_ids=prompt,
                    response_ids=np.asarray(attempt.response_ids, np.int32),
                    loss_mask=np.asarray(attempt.loss_mask, np.bool_),
                    log_probs=np.asarray(attempt.log_probs, np.float32),
                    versions=attempt.versions,
                    teacher_prompt_ids=(
                        np.asarray(context.prompt_ids, np.int32) if context else None
                    ),
                    null_prompt_ids=null if context else None,
                    advantage=weight.advantage,
                    distill_weight=weight.distill_weight * counted,
                    policy_weight=weight.policy_weight * counted,
                    reward=verdict.reward,
                    success=verdict.success,
                )
            )
            kept.append(context)
        return samples, kept

    def teacher_questions(self, groups: Sequence[Group], *, limit: int) -> list[Question]:
        """Teacher prompts of up to `limit` failed attempts as questions, spread over the groups."""
        asked = [
            [
                replace(
                    group.question,
                    id=f"{group.question.id}#teacher{attempt.index}",
                    messages=context.messages,
                )
                for attempt, verdict, context in zip(
                    group.attempts,
                    group.verdicts,
                    self._teacher_prompts.contexts(group),
                    strict=True,
                )
                if context is not None and not verdict.success
            ]
            for group in groups
        ]
        in_turn = [
            question for row in zip_longest(*asked) for question in row if question is not None
        ]
        return in_turn[:limit]
