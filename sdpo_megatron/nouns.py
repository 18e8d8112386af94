"""The nouns of the project: frozen dataclasses, the only things that cross folder borders.

    Question ─► Attempt (several: a Group) ─► Verdict ─► TeacherContext ─► TrainSample ─► StepReport
                                                                            └► GroupReceipt

Up to the verdict token ids are plain Python ints and log-probabilities plain floats (natural
logarithm, at the rollout temperature). A `TrainSample` is flat arrays, as it lies in a group's file
and travels between ranks; a `GroupReceipt` is what can be known of the file without opening it.
Tensors begin at the actor's door.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # a command line that reads settings alone does not wait for it
    import numpy as np
    from numpy.typing import NDArray

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
        tool: "python" where the model may call it and reads what comes back; "" for none. One of
            `stop` then ends a call.
        max_turns: Turns of the model's, at most; the last one's text is what is judged.
        item: What the verifier needs (tests, answer). Never shown to the model.
    """

    id: str
    task: str
    messages: tuple[Message, ...]
    prefill: str = ""
    stop: tuple[str, ...] = ()
    tool: str = ""
    max_turns: int = 1
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
        response_ids: Token ids sampled and, between them, those of a tool's turns.
        log_probs: log pi_rollout of each response token, after temperature; 0 where a tool spoke;
            same length as response_ids.
        loss_mask: True exactly on tokens that the student sampled; same length as response_ids.
        versions: Spans of policy versions, in order, covering all response tokens.
        finish_reason: "stop" (ended by itself), "length" (truncated at the limit) or "abort".
        text: The model's last turn decoded without special tokens and without the stop string: what
            the verifier judges.
        seed: Sampling seed sent with the first request; None when unseeded.
        turns: The model's turns and the tool's, one after the other; () where the model called
            none, so that the response is one turn.
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
    turns: tuple[Message, ...] = ()


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


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainSample:
    """One attempt as the actor trains on it: flat arrays and a few numbers.

    Tokens without weight are attended to, never trained on. P tokens of the prompt, R of the
    response. Any sequence of numbers is taken for an array and becomes one of the dtype below.

    Attributes:
        question_id: For messages.
        index: Position in its group.
        prompt_ids: int32 [P], the student's prompt.
        response_ids: int32 [R].
        loss_mask: bool [R]; True exactly on tokens that the student sampled.
        log_probs: float32 [R], log pi_rollout of each response token.
        versions: Which policy version sampled which response tokens, as in `Attempt`; () where
            nobody asked an engine (a test, a benchmark).
        teacher_prompt_ids: int32, the teacher's prompt; None when this attempt has no teacher.
        null_prompt_ids: int32, the teacher template without content; None unless null correction
            or its diagnostic is on.
        advantage: Scalar advantage of the attempt (group-relative); 0.0 where the objective has
            none.
        distill_weight: Weight of the attempt's distillation loss (0.0 masks it).
        policy_weight: Weight of the attempt's policy-gradient loss (0.0 masks it).
        reward: The verdict's reward (for metrics).
        success: Whether the verdict was a success (for metrics split by outcome).

    Raises:
        ValueError: The arrays of response tokens differ in length, or the spans do not cover them.
    """

    question_id: str
    index: int
    prompt_ids: NDArray[np.int32]
    response_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    log_probs: NDArray[np.float32]
    versions: tuple[VersionSpan, ...] = ()
    teacher_prompt_ids: NDArray[np.int32] | None = None
    null_prompt_ids: NDArray[np.int32] | None = None
    advantage: float = 0.0
    distill_weight: float = 1.0
    policy_weight: float = 0.0
    reward: float = 0.0
    success: bool = False

    def __post_init__(self) -> None:
        import numpy as np

        for name, dtype in _ARRAYS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asarray(value, dtype))
        tokens = len(self.response_ids)
        if not tokens == len(self.loss_mask) == len(self.log_probs):
            raise ValueError(
                f"{self.question_id} attempt {self.index}: {tokens} response tokens, but "
                f"{len(self.loss_mask)} masks and {len(self.log_probs)} log-probabilities"
            )
        bounds = [0, *(span.end for span in self.versions)]
        if self.versions and ([s.start for s in self.versions], bounds[-1]) != (
            bounds[:-1],
            tokens,
        ):
            raise ValueError(
                f"{self.question_id} attempt {self.index}: its spans of policy versions are "
                f"{[(s.start, s.end) for s in self.versions]}, expected spans that follow one "
                f"another from 0 to {tokens}"
            )

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        arrays = [getattr(self, name) for name in _ARRAYS]
        return sum(array.nbytes for array in arrays if array is not None)

    def receipt(self) -> SampleReceipt:
        """What planning needs of it."""
        teacher, null = self.teacher_prompt_ids, self.null_prompt_ids
        trained = self.loss_mask.sum()
        return SampleReceipt(
            index=self.index,
            prompt_tokens=len(self.prompt_ids),
            teacher_tokens=None if teacher is None else len(teacher),
            null_tokens=None if null is None else len(null),
            response_tokens=len(self.response_ids),
            trained_tokens=int(trained),
            distill_weight=self.distill_weight,
            policy_weight=self.policy_weight,
            reward=self.reward,
            success=self.success,
        )


_ARRAYS: Mapping[str, str] = {
    "prompt_ids": "int32",
    "response_ids": "int32",
    "loss_mask": "bool",
    "log_probs": "float32",
    "teacher_prompt_ids": "int32",
    "null_prompt_ids": "int32",
}


@dataclass(frozen=True, order=True)
class GroupLease:
    """The right to make one group: which place in the endless order of questions, and which try.

    Attributes:
        position: Place in the order of questions over all epochs, from 0: rollout batch
            ``position // batch.questions``.
        number: Which try at it, from 0.
    """

    position: int
    number: int = 0

    @property
    def name(self) -> str:
        """As a file's name has it; names sort as leases do."""
        return f"{self.position:09d}-{self.number:03d}"


@dataclass(frozen=True, kw_only=True)
class SampleReceipt:
    """What planning needs of one sample: lengths in tokens, and what the denominators count.

    Attributes:
        index: Position in its group, as in `TrainSample`.
        prompt_tokens, response_tokens: Lengths.
        teacher_tokens, null_tokens: Lengths of these prompts; None where there is none.
        trained_tokens: Response tokens with loss mask True.
        distill_weight, policy_weight, reward, success: As in `TrainSample`.
    """

    index: int
    prompt_tokens: int
    teacher_tokens: int | None
    null_tokens: int | None
    response_tokens: int
    trained_tokens: int
    distill_weight: float
    policy_weight: float
    reward: float
    success: bool


@dataclass(frozen=True, kw_only=True)
class GroupReceipt:
    """A group that lies in a file: everything that is decided about it is decided on this.

    Attributes:
        lease: What it was made under.
        question_id: The question asked.
        attempts: Attempts that were judged, those without a token included.
        dropped: Attempts that could not be judged.
        samples: One receipt for each sample in the file, in the file's order: attempts with at
            least one token.
        oldest_version: Of all response tokens; None where no sample says.
        file: Name of the file in the folder of groups.
        bytes: Length of the file.
        crc32: Pins the whole content: the checksum of the file's header, which holds those of all
            samples.
        notes: Small JSON-able facts of whoever made it (sums for metrics, say), kept as they are.
    """

    lease: GroupLease
    question_id: str
    attempts: int
    dropped: int
    samples: tuple[SampleReceipt, ...]
    oldest_version: int | None
    file: str
    bytes: int
    crc32: int
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The metrics of one step, the same on every rank.

    Keys are names declared in `observability.metrics`.
    """

    step: int
    policy_version: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ScoredAttempt:
    """An attempt as student and teacher saw it in a step, token by token, for a reader.

    Attributes:
        question_id, index: Name the sample.
        prompt_ids: The student's prompt.
        teacher_prompt_ids: The teacher's.
        response_ids: All R of them.
        student: log pi of the first S <= R response tokens; the rest was not scored.
        teacher: log q of the same.
        alternatives: Of each of them the teacher's most probable tokens: (id, log q, log pi).
    """

    question_id: str
    index: int
    prompt_ids: tuple[int, ...]
    teacher_prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    student: tuple[float, ...]
    teacher: tuple[float, ...]
    alternatives: tuple[tuple[tuple[int, float, float], ...], ...]
