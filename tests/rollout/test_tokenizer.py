"""A response's text: after its prompt, without control tokens, cut before the first stop string."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo_megatron.errors import ModelFileError
from sdpo_megatron.rollout.tokenizer import decode_response, load_tokenizer


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


@settings(max_examples=50)
@given(prompt=st.text(max_size=20), response=st.text(max_size=20))
def test_the_text_is_what_was_sampled(tokenizer: Any, prompt: str, response: str) -> None:
    found = decode_response(tokenizer, ids(tokenizer, prompt), ids(tokenizer, response))
    assert found == response


@pytest.mark.parametrize(
    ("response", "stop", "text"),
    [
        ("a = 1\n```\nmore", ("\n```",), "a = 1"),
        ("one two one", ("two", "one"), ""),  # the first in the text, not in the list
        ("one two three", ("three", "two"), "one "),
        ("stop", ("stop",), ""),  # at the very beginning
        ("nothing of it", ("absent",), "nothing of it"),
        ("x", (), "x"),
    ],
)
def test_it_ends_before_the_first_stop_string(
    tokenizer: Any, response: str, stop: tuple[str, ...], text: str
) -> None:
    assert decode_response(tokenizer, ids(tokenizer, "go"), ids(tokenizer, response), stop) == text


def test_control_tokens_are_not_text(tokenizer: Any) -> None:
    sampled = [*ids(tokenizer, "done"), *ids(tokenizer, "<|im_end|>")]
    assert decode_response(tokenizer, ids(tokenizer, "go"), sampled) == "done"
    assert decode_response(tokenizer, ids(tokenizer, "<|im_end|>"), sampled) == "done"


def test_a_character_begun_by_the_prompt_belongs_to_no_one(tokenizer: Any) -> None:
    """The prompt's last token is the first byte of the response's character."""
    euro = ids(tokenizer, "€")
    assert len(euro) > 1
    found = decode_response(tokenizer, [*ids(tokenizer, "go"), euro[0]], euro[1:])
    assert found == tokenizer.decode(euro[1:])


class DropsALeadingSpace:
    """As tokenizers of the SentencePiece kind decode: the first piece's space is lost."""

    pieces = (" a", " b", " c")

    def decode(self, chosen: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(self.pieces[number] for number in chosen).removeprefix(" ")


def test_a_leading_space_survives_whatever_the_tokenizer_does() -> None:
    assert decode_response(DropsALeadingSpace(), [0], [1, 2]) == " b c"
    assert decode_response(DropsALeadingSpace(), [0] * 100, [1, 2]) == " b c"


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_a_chat_template_says_what_is_needed(
    tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match=r"no chat template.*an instruct checkpoint is needed"):
        load_tokenizer(tmp_path)
