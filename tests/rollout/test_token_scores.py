"""Scored attempts as files: texts in place of ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.nouns import ScoredAttempt
from sdpo_megatron.rollout.token_scores import (
    TokenScoreStore,
    alternative_pieces,
    response_pieces,
)


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(
    "text",
    ["return a + b\n", "", "é 👩‍👩‍👧 日本語 \u202e", "</script>\x00", "<|im_end|>"],
    ids=["code", "nothing", "many bytes a character", "controls", "a control token"],
)
def test_pieces_joined_are_the_response(tokenizer: Any, text: str) -> None:
    response = ids(tokenizer, text)
    pieces = response_pieces(tokenizer, ids(tokenizer, "def add"), response)
    assert len(pieces) == len(response)
    assert "".join(pieces) == text


def test_a_character_goes_with_the_token_that_completes_it(tokenizer: Any) -> None:
    response = ids(tokenizer, "x日y")
    assert len(response) == 5  # of this tokenizer, a byte each
    assert response_pieces(tokenizer, (), response) == ["x", "", "", "日", "y"]


def test_a_response_that_ends_inside_a_character_says_so(tokenizer: Any) -> None:
    response = ids(tokenizer, "x日")[:-1]
    assert response_pieces(tokenizer, (), response) == ["x", "", "\ufffd"]


def test_a_response_that_completes_a_character_of_its_prompt(tokenizer: Any) -> None:
    whole = ids(tokenizer, "a日b")
    assert response_pieces(tokenizer, whole[:2], whole[2:])[-1] == "b"
    assert len(response_pieces(tokenizer, whole[:2], whole[2:])) == 3


def test_alternatives_keep_the_space_that_they_begin_with(tokenizer: Any) -> None:
    piece = alternative_pieces(tokenizer)
    (token,) = ids(tokenizer, " return")
    assert piece(token) == " return"
    assert piece(tokenizer.eos_token_id) == "<|im_end|>"


@pytest.fixture
def scored(tokenizer: Any) -> ScoredAttempt:
    response = ids(tokenizer, "return b")
    (better,) = ids(tokenizer, " return")
    return ScoredAttempt(
        question_id="q/1",
        index=3,
        prompt_ids=ids(tokenizer, "<|im_start|>user"),
        teacher_prompt_ids=ids(tokenizer, "<|im_start|>user\nfeedback"),
        response_ids=response,
        student=(-0.5,) * (len(response) - 1),  # the last one was not scored
        teacher=(-1.25,) * (len(response) - 1),
        alternatives=(((better, -0.1, -2.0),),) * (len(response) - 1),
    )


def test_a_step_is_read_as_it_was_written(
    tmp_path: Path, tokenizer: Any, scored: ScoredAttempt
) -> None:
    store = TokenScoreStore(tmp_path / "token_scores")
    store.write(7, [scored], tokenizer)
    (found,) = store.read(7)
    assert found["question_id"] == "q/1"
    assert found["index"] == 3
    assert found["response_ids"] == list(scored.response_ids)
    assert "".join(found["pieces"]) == "return b"
    assert found["prompt"] == "<|im_start|>user"
    assert found["teacher_prompt"] == "<|im_start|>user\nfeedback"
    assert found["student"] == list(scored.student)
    assert found["alternatives"][0] == [[" return", -0.1, -2.0]]


def test_what_cannot_be_read_is_nothing(
    tmp_path: Path, tokenizer: Any, scored: ScoredAttempt
) -> None:
    store = TokenScoreStore(tmp_path)
    assert store.read(1) == []
    store.write(1, [scored], tokenizer)
    store.path(1).write_bytes(store.path(1).read_bytes()[:-5])
    assert store.read(1) == []
