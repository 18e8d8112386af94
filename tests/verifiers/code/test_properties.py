"""Properties of the code verifier's parts on arbitrary text; of the whole through the sandbox."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdpo_megatron.sandbox import Sandbox, SandboxConfig
from sdpo_megatron.sandbox.inside.plain_data import PlainDataError, decode, encode
from sdpo_megatron.sandbox.inside.verdict.difference import same_output
from sdpo_megatron.sandbox.inside.verdict.render import render, shorten_middle
from sdpo_megatron.verifiers.code import CodeVerifier, CodeVerifierConfig
from sdpo_megatron.verifiers.code.reading import readings
from sdpo_megatron.verifiers.harmless import harmless
from tests.verifiers.code.items import SUM_ITEM, humaneval, humaneval_item
from tests.verifiers.code.test_verifier import STDIN

MANY = settings(max_examples=10_000, deadline=None)
SOME = settings(max_examples=500, deadline=None)

_TOKENS = [
    "<|",
    "|>",
    "<",
    ">",
    "/",
    "s",
    "think",
    "[INST]",
    "<<SYS>>",
    "\x1b[0m",
    "```",
    "0xdeadbeef",
    " ",
    "｜",
]
hostile_text = st.one_of(st.text(), st.lists(st.sampled_from(_TOKENS)).map("".join))
code_like = st.one_of(
    hostile_text,
    st.lists(
        st.sampled_from(
            [
                "def total(xs):",
                "\n",
                "    ",
                "return ",
                "sum(xs)",
                "```python",
                "```",
                "xs",
                "(",
                ")",
                ":",
                "'''",
                "\\",
                "\t",
                "#",
                "\0",
            ]
        )
    ).map("".join),
)

plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.complex_numbers(allow_nan=False),
        st.text(st.characters()),
        st.binary(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.sets(st.integers(), max_size=4),
        st.frozensets(st.text(max_size=4), max_size=4),
    ),
    max_leaves=12,
)


@SOME
@given(plain)
def test_plain_data_arrives_as_it_was(value: object) -> None:
    arrived = decode(encode(value))
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.slow
@MANY
@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_raise_the_codecs_own_error(data: bytes) -> None:
    with contextlib.suppress(PlainDataError):
        decode(data)


@SOME
@given(plain)
def test_rendering_is_bounded_and_repeatable(value: object) -> None:
    assert render(value) == render(decode(encode(value)))
    assert len(render(value, 100)) < 1500


def test_rendering_of_values_that_repr_would_choke_on() -> None:
    assert render(10**5000 + 7) == "<integer of about 5001 digits, the last ...000000000007>"
    assert render({3, 1, 2}) == "{1, 2, 3}"
    assert render({"b", "a"}) == "{'a', 'b'}"
    assert render((1,)) == "(1,)"
    assert len(render(list(range(10**6)), 200)) < 300
    deep: list[object] = []
    for _ in range(90):
        deep = [deep]
    assert render(deep).count("[") < 30


@pytest.mark.slow
@MANY
@given(hostile_text)
def test_harmless_text_obeys_nobody(text: str) -> None:
    safe = harmless(text, 10_000)
    for token in (
        "<|",
        "|>",
        "```",
        "</s>",
        "<s>",
        "<think>",
        "</think>",
        "[INST]",
        "<<SYS>>",
        "｜>",
    ):
        assert token not in safe, safe
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in safe if c not in "\n\t")
    assert harmless(text, 10_000) == safe


@SOME
@given(hostile_text, st.integers(40, 200))
def test_shortening_keeps_the_ends(text: str, limit: int) -> None:
    short = shorten_middle(text, limit)
    assert short == text if len(text) <= limit else len(short) <= limit + 40
    assert short[:10] == text[:10]
    assert short[-9:] == text[-9:]


@pytest.mark.slow
@MANY
@given(code_like)
def test_reading_never_raises_and_keeps_the_text(response: str) -> None:
    lines = {line.strip() for line in response.split("\n")}
    for text in readings(response, entry="f"):
        for line in text.split("\n"):
            assert line.strip() in lines or any(found.startswith(line.strip()) for found in lines)


@pytest.mark.slow
@MANY
@given(st.text(), st.text())
def test_comparison_of_outputs_never_raises(left: str, right: str) -> None:
    assert same_output(left, left)
    assert same_output(left, right) == same_output(right, left)


@SOME
@given(
    st.lists(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=4), min_size=1, max_size=4)
)
def test_outputs_reformatted_keep_their_verdict(rows: list[list[int]]) -> None:
    expected = "\n".join(" ".join(map(str, row)) for row in rows)
    spaced = "\n".join("  " + "   ".join(f"{n}.0" for n in row) + " " for row in rows) + "\n\n"
    assert same_output(spaced, expected)
    rows[0][0] += 1
    assert not same_output("\n".join(" ".join(map(str, row)) for row in rows), expected)


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    with Sandbox(SandboxConfig(workers=2)) as sandbox:
        yield CodeVerifier(sandbox, CodeVerifierConfig(cpu_s=1.0, wall_s=20.0))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(code_like, min_size=20, max_size=20))
def test_the_verifier_never_raises_on_any_text(
    verifier: CodeVerifier, responses: list[str]
) -> None:
    """500 draws of 20 responses: 10,000 responses, half as a function and half as a program."""
    items = (SUM_ITEM, STDIN)
    with ThreadPoolExecutor(2) as pool:
        for verdict in pool.map(lambda n: verifier.verify(items[n % 2], responses[n]), range(20)):
            assert verdict.reward == (1.0 if verdict.success else 0.0)
            assert verdict.success or verdict.feedback


def test_the_same_program_written_differently_keeps_its_verdict(verifier: CodeVerifier) -> None:
    for name in ("HumanEval/28", "HumanEval/53", "HumanEval/4"):
        problem, item = humaneval()[name], humaneval_item(name)
        whole = problem["prompt"] + problem["canonical_solution"]
        for text in (
            whole,
            f"```python\n{whole}\n```",
            f"Sure!\n```\n{whole}```\nDone.",
            whole + "\n# end\n",
            "import os\n\n" + whole,
            problem["canonical_solution"],
            whole.replace("\n", "\r\n"),
        ):
            assert verifier.verify(item, text).success, text
