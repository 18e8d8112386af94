"""No control token of any model survives in feedback, and ordinary text stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdpo_megatron.verifiers.harmless import harmless, is_harmless

_LINES = (Path(__file__).parent / "control_tokens.txt").read_text("utf-8").splitlines()[1:]
TOKENS = {family: rest.split() for family, _, rest in (line.partition(": ") for line in _LINES)}
ALL_TOKENS = [token for tokens in TOKENS.values() for token in tokens]
WITH_BLANKS = ['<parameter name="city">', "<tool_call id='1' >", "<think >", "<br />"]
SPLIT = ["<th\u200bink>", "<\u202ethink>", "<|im\u00adend|>"]  # invisible characters inside


@pytest.mark.parametrize("model", TOKENS)
def test_the_control_tokens_are_broken(model: str) -> None:
    for token in TOKENS[model]:
        for text in (token, f"a{token}b", token * 3, f"<{token}>", f"[{token}]"):
            assert token not in harmless(text), text
            assert not is_harmless(text)


@pytest.mark.parametrize("text", WITH_BLANKS + SPLIT)
def test_tags_with_attributes_and_invisible_characters_are_broken(text: str) -> None:
    assert text not in harmless(text)


def test_ordinary_text_stays() -> None:
    for text in (
        "3 < 4 and 5 > 4",
        "x<y",
        "a <= b -> c",
        "[1, 2, 3] [0,1) [A] ['x'] [x for x in y]",
        "<class 'int'>",
        "{'a': [None]}",
        "1 | 2 || 3",
        "caf\u00e9 \u65e5\u672c\u8a9e \u2264 \U0001f600\n\tnext",
        "~~~ --- >>> f(1)",
    ):
        assert harmless(text) == text


def test_terminals_addresses_and_fences_are_spelled_out() -> None:
    assert (
        harmless("\x1b[31m\r\u2028 at 0x7fabcdef01 ```py") == "\\x1b[31m\\x0d\\u2028 at 0x... '''py"
    )


PIECES = st.sampled_from([*ALL_TOKENS, *"<>[]|/~!_ Ab`\n\x00\u200b", *WITH_BLANKS])


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_is_harmless_stays_harmless_and_holds_no_token(text: str) -> None:
    safe = harmless(text, 10_000)
    assert harmless(safe, 10_000) == safe
    for token in ALL_TOKENS:
        assert token not in safe
