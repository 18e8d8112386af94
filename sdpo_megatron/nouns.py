"""The nouns of the project: frozen dataclasses, the only things that cross folder borders.

    Question ─► Attempt (several: a Group) ─► Verdict ─► TeacherContext ─► TrainSample ─► StepReport

Token ids are plain Python ints and log-probabilities plain floats here (natural logarithm, at the
rollout temperature); tensors begin at the actor's door.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the model is asked.

    Attributes:
        id: Unique and stable within the task, e.g. ``HumanEval/28``.
        task: Name of the task in the registry; decides the verifier.
        messages: The conversation up to the model's turn.
        prefill: Text that opens the assistant's turn, e.g. a code fence. Part of the prompt, not of
            the attempt.
        stop: Strings that end an attempt; the stop string itself is not part of the attempt's text.
        item: What the verifier needs (tests, answer). Never shown to the model.
    """

    id: str
    task: str
    messages: tuple[Message, ...]
    prefill: str = ""
    stop: tuple[str, ...] = ()
    item: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, order=True)
class PolicyVersion:
    """Which weights: a number that only grows, and their checksum ("" when not computed)."""

    number: int
    checksum: str = field(default="", compare=False)


@dataclass(frozen=True)
class VersionSpan:
    """Response tokens [start, end) were sampled from policy version `version`."""

    start: int
    end: int
    version: int


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One sampled response.

    Attributes:
        question_id: The question it answers.
        index: Position in its group, from 0.
        prompt_ids: Token ids the engine was given, the prefill included.
        response_ids: Token ids sampled (and, in multi-turn tasks, observation tokens between them).
        log_probs: log pi_rollout of each response token, after temperature; same length as
            response_ids.
        loss_mask: True exactly on tokens that the student sampled; same length as response_ids.
        versions: Spans of policy versions, in order, covering all response tokens.
        finish_reason: "stop" (ended by itself), "length" (truncated at the limit) or "abort".
        text: The response decoded without special tokens and without the stop string: what the
            verifier judges.
        seed: Sampling seed sent with the request; None when unseeded.
    """

    question_id: str
    index: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    loss_mask: tuple[bool, ...]
    versions: tuple[VersionSpan, ...]
    finish_reason: FinishReason
    text: str
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a verifier says of one attempt.

    A failure of infrastructure is an exception, never a Verdict.

    Attributes:
        reward: In [0, 1].
        success: Whether the attempt counts as solved (may be used as a demonstration for its
            siblings).
        format_ok: Whether an answer could be extracted at all.
        feedback: Text that may be shown to the teacher; "" for none.
        reveals_answer: True when `feedback` contains the expected answer (allowed only where the
            task says so).
        seconds: Wall time of judging.
        layers: Isolation layers active while the attempt ran; empty where nothing was executed.
        details: Small JSON-able facts for people: failing test index, error kind, extracted answer.
    """

    reward: float
    success: bool
    format_ok: bool
    feedback: str
    reveals_answer: bool = False
    seconds: float = 0.0
    layers: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A question, its attempts and their verdicts, index by index.

    `dropped` counts attempts that could not be judged.
    """

    question: Question
    attempts: tuple[Attempt, ...]
    verdicts: tuple[Verdict, ...]
    dropped: int = 0

    def __post_init__(self) -> None:
        if len(self.attempts) != len(self.verdicts):
            raise ValueError(
                f"{self.question.id}: {len(self.attempts)} attempts but {len(self.verdicts)} "
                "verdicts"
            )


@dataclass(frozen=True, kw_only=True)
class TeacherContext:
    """The prompt under which the teacher rescores one attempt.

    Attributes:
        prompt_ids: Token ids up to and including the generation prompt and the prefill.
        messages: The same as a conversation, for people and logs.
        has_solution: A successful sibling attempt is in it.
        has_feedback: Environment feedback is in it.
        num_cut_tokens: How many tokens were cut from feedback and solution to fit.
    """

    prompt_ids: tuple[int, ...]
    messages: tuple[Message, ...]
    has_solution: bool
    has_feedback: bool
    num_cut_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainSample:
    """One attempt as the actor trains on it.

    Tokens without weight are attended to, never trained on.

    Attributes:
        prompt_ids: The student's prompt.
        teacher_prompt_ids: The teacher's prompt; None when this attempt has no teacher.
        null_prompt_ids: The teacher template without content; None unless null correction or its
            diagnostic is on.
        response_ids, loss_mask, log_probs: As in `Attempt`.
        advantage: Scalar advantage of the attempt (group-relative); 0.0 where the objective has
            none.
        distill_weight: Weight of the attempt's distillation loss (0.0 masks it).
        policy_weight: Weight of the attempt's policy-gradient loss (0.0 masks it).
        success: Whether the verdict was a success (for metrics split by outcome).
        question_id: For messages.
        index: Position in its group.
    """

    question_id: str
    index: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    log_probs: tuple[float, ...]
    teacher_prompt_ids: tuple[int, ...] | None = None
    null_prompt_ids: tuple[int, ...] | None = None
    advantage: float = 0.0
    distill_weight: float = 1.0
    policy_weight: float = 0.0
    success: bool = False


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The metrics of one step, the same on every rank.

    Keys are names declared in `observability.metrics`.
    """

    step: int
    policy_version: int
    metrics: Mapping[str, float]
