"""A conversation keeps to its window: the oldest turns go, the question stays."""

from __future__ import annotations

from sdpo_megatron.discovery.conversation import NO_FEEDBACK, Turn, messages_after
from sdpo_megatron.nouns import Message, Question

QUESTION = Question(id="q", task="t", messages=({"role": "user", "content": "w" * 10},))


def letters(messages: tuple[Message, ...]) -> int:
    return sum(len(message["content"]) for message in messages)


def test_each_attempt_is_followed_by_its_feedback() -> None:
    found = messages_after(QUESTION, [Turn("one", "no {x}"), Turn("two", " ")], letters, 10_000)
    assert [message["role"] for message in found] == ["assistant", "user"] * 2
    assert [found[0]["content"], found[2]["content"]] == ["one", "two"]
    assert "no {x}" in found[1]["content"]
    assert found[1]["content"].endswith("Correctly solve the original question.")
    assert NO_FEEDBACK in found[3]["content"]


def test_the_oldest_turns_are_dropped() -> None:
    turns = [Turn(str(n) * 100, "f" * 20) for n in range(6)]
    of_all = letters(messages_after(QUESTION, turns, letters, 10_000))
    each = of_all // 6
    kept = messages_after(QUESTION, turns, letters, 10 + 3 * each)
    assert [message["content"][:1] for message in kept[::2]] == ["3", "4", "5"]
    assert messages_after(QUESTION, turns, letters, 10 + each - 1) == ()
    assert messages_after(QUESTION, [], letters, 5) == ()
