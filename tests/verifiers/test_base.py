"""The registry, import paths, and the pieces that verifiers share."""

from __future__ import annotations

import threading

import pytest

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.judging.wire import verdict_from_json, verdict_to_json
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import (
    REVEAL_KEY,
    VERIFIERS,
    BadItem,
    Verifier,
    graded,
    import_path_of,
    library,
    load_verifier,
    require,
    wrong_answer,
)

PURE = sorted(set(VERIFIERS) - {"code"})


@pytest.mark.parametrize("name", PURE)
def test_every_registered_verifier_bears_its_name_and_is_made_once(name: str) -> None:
    verifier = load_verifier(name)
    assert isinstance(verifier, Verifier)
    assert verifier.name == name
    assert load_verifier(name) is verifier
    assert type(load_verifier(VERIFIERS[name])) is type(verifier)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "expected one of code, instruction_following, .*import path such as"),
        ("no_such_module:X", "cannot import no_such_module:X"),
        ("sdpo_megatron.verifiers.base:Missing", "cannot import"),
        ("sdpo_megatron.verifiers.base:BadItem", "has no `name` and `verify"),
        ("sdpo_megatron.verifiers.code:CodeVerifier", "must need no arguments"),
    ],
)
def test_what_is_no_verifier_is_refused_with_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_verifier(name)


def test_an_import_path_is_its_own() -> None:
    assert import_path_of("my.module:Mine") == "my.module:Mine"
    assert import_path_of("code") == "sdpo_megatron.verifiers.code:CodeVerifier"


def test_a_missing_library_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"needs no_such_library: .*sdpo-megatron\[verifier\]"):
        library("no_such_library.part")


def test_require_names_key_and_kind() -> None:
    assert require({"a": 1}, "a", (int, str)) == 1
    with pytest.raises(BadItem, match=r"item has no key 'b'; it has \['a'\]"):
        require({"a": 1}, "b", int)
    with pytest.raises(BadItem, match=r"item key 'a': expected .*str.*, got int"):
        require({"a": 1}, "a", str)


def test_grades_and_the_permission_to_reveal() -> None:
    assert graded(True).reward == 1.0
    assert graded(False).reward == 0.0
    assert graded(False, reward=0.5).reward == 0.5
    assert wrong_answer({}, "No.", "42").feedback == "No."
    shown = wrong_answer({REVEAL_KEY: True}, "No.", "42")
    assert (shown.feedback, shown.reveals_answer) == ("No. The correct answer is 42.", True)


def test_verdicts_survive_json_and_nonsense_is_refused() -> None:
    verdict = Verdict(
        reward=0.25,
        success=False,
        format_ok=True,
        feedback="ü\n\x00",
        reveals_answer=True,
        seconds=1.5,
        layers=("pid", "net"),
        details={"a": [1, None]},
    )
    assert verdict_from_json(verdict_to_json(verdict)) == verdict
    for change in ({"reward": 1.5}, {"reward": float("nan")}, {"surplus": 1}, {"layers": None}):
        with pytest.raises(ValueError, match="not a verdict"):
            verdict_from_json({**verdict_to_json(verdict), **change})


@pytest.mark.parametrize(
    ("name", "item", "right"),
    [
        ("multiple_choice", {"answer": "A"}, "<answer>A</answer>"),
        ("mathematics", {"answer": "\\frac{x}{2}"}, "\\boxed{0.5x}"),
        ("tool_use", {"calls": [{"name": "f", "arguments": {"a": [1]}}]}, "f(a=1)"),
        (
            "instruction_following",
            {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "en"}]},
            "This is an entirely ordinary English sentence, and so is the rest of it.",
        ),
    ],
)
def test_verifiers_are_thread_safe(name: str, item: dict[str, object], right: str) -> None:
    """math-verify's time limits would raise outside the main thread; 8 threads agree with one."""
    verifier = load_verifier(name)
    expected = verifier.verify(item, right)
    assert expected.success
    got: list[Verdict] = []
    threads = [
        threading.Thread(target=lambda: got.extend(verifier.verify(item, right) for _ in range(5)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 40
