"""From a conversation to token ids, by any chat template, with text that stays text.

Whatever a user, a verifier or the model itself wrote may contain the spelling of a control token
(``<|im_end|>``). Encoded naively it would end the turn. Here only the template's own control tokens
become control tokens:

1. the template is rendered once with a unique marker in place of each message's text, so we know
   which characters are the template's and which are content;
2. the final text is cut at the control tokens that are the template's;
3. each is encoded as its id, and each piece between two of them as plain text
   (`split_special_tokens`).

Pieces reach over the border between template and content, so ordinary content gets the same ids as
from `tokenizer.apply_chat_template`. Text that no tokenizer marks as special (Qwen's ``<think>``)
is left to the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sdpo_megatron.errors import ModelFileError
from sdpo_megatron.nouns import Message, Question
from sdpo_megatron.rollout.tokenizer import Tokenizer

_MARKER = "\ue000{}\ue001"  # private-use characters: no template tests for them
_MARKERS = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True)
class Piece:
    """A stretch of the final text and whether the template, not a message, wrote it."""

    text: str
    is_template: bool


class PromptBuilder:
    """Renders and encodes prompts with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, thinking: bool = False):
        """`thinking` is passed to templates that know `enable_thinking` (the paper's runs: off)."""
        self.tokenizer = tokenizer
        self.thinking = thinking
        specials = [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        ]
        specials.sort(key=len, reverse=True)  # the longest spelling wins
        self._specials = re.compile("|".join(map(re.escape, specials)) or r"(?!)")

    def question_ids(self, question: Question) -> tuple[int, ...]:
        """The student's prompt: the conversation, the opening of the model's turn, the prefill."""
        return self.encode(question.messages, question.prefill)

    def encode(self, messages: Sequence[Message], prefill: str = "") -> tuple[int, ...]:
        """Token ids of `messages`, generation prompt and `prefill` that opens the model's turn."""
        pieces = self._pieces(messages, prefill)
        if not any(self._specials.search(piece.text) for piece in pieces if not piece.is_template):
            return tuple(self._encode_whole("".join(piece.text for piece in pieces)))
        return tuple(self._encode_apart(pieces))

    def reply_ids(self, messages: Sequence[Message], role: str, content: str) -> tuple[int, ...]:
        """What follows when the model's turn after `messages` has ended and `role` says `content`:
        the end of that turn, the other's, and the opening of the model's next.

        Raises:
            ModelFileError: The chat template shows nothing that `role` says.
        """
        turns = ({"role": "assistant", "content": "-"}, {"role": role, "content": content})
        pieces = self._pieces((*messages, *turns), "")
        texts = [index for index, piece in enumerate(pieces) if not piece.is_template]
        # Of the texts the last three are the model's turn, what is said to it, and its prefill.
        if len(texts) < 3 or pieces[texts[-2]].text != content.strip():
            raise ModelFileError(f"the chat template does not show what a {role!r} says")
        return tuple(self._encode_apart(pieces[texts[-3] + 1 :]))

    def text(self, messages: Sequence[Message], prefill: str = "") -> str:
        """What `encode` encodes, for people."""
        return "".join(piece.text for piece in self._pieces(messages, prefill))

    def plain_ids(self, text: str) -> list[int]:
        """`text` by itself, no control tokens whatever it spells."""
        return list(
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )

    def _pieces(self, messages: Sequence[Message], prefill: str) -> list[Piece]:
        marked = self._render([_mark(index, message) for index, message in enumerate(messages)])
        pieces, end = [], 0
        for match in _MARKERS.finditer(marked):
            pieces.append(Piece(marked[end : match.start()], True))
            pieces.append(Piece(messages[int(match[1])]["content"].strip(), False))
            end = match.end()
        pieces += [Piece(marked[end:], True), Piece(prefill, False)]
        plain = self._render([dict(message) for message in messages])
        if plain + prefill != "".join(piece.text for piece in pieces) and not self._spells_special(
            messages
        ):
            # The template rewrites content (drops earlier thinking, say): do as it says.
            pieces = [Piece(plain, True), Piece(prefill, False)]
        return pieces

    def _spells_special(self, messages: Sequence[Message]) -> bool:
        return any(self._specials.search(message["content"]) for message in messages)

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=self.thinking,
            )
        except Exception as error:  # jinja2 and the template's own raise_exception
            roles = ", ".join(message["role"] for message in messages)
            raise ModelFileError(
                f"the chat template refuses messages of roles {roles}: {error}"
            ) from error
        return str(rendered)

    def _encode_whole(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode_apart(self, pieces: Sequence[Piece]) -> list[int]:
        ids: list[int] = []
        text = ""  # since the last control token
        for piece in pieces:
            end = 0
            for match in self._specials.finditer(piece.text) if piece.is_template else ():
                ids += self.plain_ids(text + piece.text[end : match.start()])
                ids.append(self.tokenizer.convert_tokens_to_ids(match[0]))
                text, end = "", match.end()
            text += piece.text[end:]
        return ids + self.plain_ids(text)


def _mark(index: int, message: Message) -> dict[str, str]:
    """The message with a marker for its text.

    White space around stays visible, templates may trim it.
    """
    content = message["content"]
    if not content.strip():
        return dict(message)
    leading = content[: len(content) - len(content.lstrip())]
    trailing = content[len(content.rstrip()) :]
    return {**message, "content": leading + _MARKER.format(index) + trailing}
