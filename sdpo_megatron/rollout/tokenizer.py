"""The tokenizer, and the two things that are done with it outside of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import ModelFileError

Tokenizer = Any  # transformers.PreTrainedTokenizerFast; transformers ships no usable types

_CONTEXT_TOKENS = 8  # enough to hold any character that a response continues


def load_tokenizer(model_dir: str | Path) -> Tokenizer:
    """The tokenizer of an HF checkpoint folder.

    Raises:
        ModelFileError: there is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{model_dir}: no usable tokenizer: {error}") from error
    if not tokenizer.chat_template:
        raise ModelFileError(
            f"{model_dir}: the tokenizer has no chat template (tokenizer_config.json or "
            "chat_template.jinja); an instruct checkpoint is needed"
        )
    return tokenizer


def decode_response(
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    stop: Sequence[str] = (),
) -> str:
    """Text of a response, without special tokens and cut before the first stop string.

    Decoded after the end of its prompt: some tokenizers drop the leading space of a text that they
    decode by itself.
    """
    context = list(prompt_ids[-_CONTEXT_TOKENS:])
    before = tokenizer.decode(context, skip_special_tokens=True)
    whole = tokenizer.decode(context + list(response_ids), skip_special_tokens=True)
    text = whole[len(before) :] if whole.startswith(before) else _alone(tokenizer, response_ids)
    ends = [at for string in stop if (at := text.find(string)) >= 0]
    return str(text[: min(ends)] if ends else text)


def _alone(tokenizer: Tokenizer, response_ids: Sequence[int]) -> str:
    """For a prompt that ends inside a character which the response completes."""
    return str(tokenizer.decode(list(response_ids), skip_special_tokens=True))
