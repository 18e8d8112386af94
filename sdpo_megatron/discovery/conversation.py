"""The multi-turn baseline: attempts and their feedback as one conversation, kept to a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdpo_megatron.nouns import Message, Question

REPLY = (
    "The following is feedback from your unsuccessful earlier attempt:\n\n{feedback}\n\n"
    "Correctly solve the original question."
)
NO_FEEDBACK = "The attempt was not successful."


@dataclass(frozen=True)
class Turn:
    """A failed attempt, as it stood in the assistant's turn, and what the verifier said of it."""

    answer: str
    feedback: str


def messages_after(
    question: Question,
    turns: Sequence[Turn],
    num_tokens: Callable[[tuple[Message, ...]], int],
    window: int,
) -> tuple[Message, ...]:
    """What follows the question's own messages before the next attempt.

    Of the turns the newest stay: as many as fit into `window` tokens with the question.

    Args:
        num_tokens: Of a prompt with these messages.
    """
    for first in range(len(turns)):
        added = _messages(turns[first:])
        if num_tokens((*question.messages, *added)) <= window:
            return added
    return ()


def _messages(turns: Sequence[Turn]) -> tuple[Message, ...]:
    found: list[Message] = []
    for turn in turns:
        feedback = turn.feedback.strip() or NO_FEEDBACK
        found.append({"role": "assistant", "content": turn.answer})
        found.append({"role": "user", "content": REPLY.replace("{feedback}", feedback)})
    return tuple(found)
