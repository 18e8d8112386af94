"""Teacher prompts, letter by letter against the templates of arXiv 2601.20802."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdpo_megatron import config
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Attempt, Group, Question, Verdict
from sdpo_megatron.rollout.config import TeacherPromptConfig
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder

QUESTION = Question(id="q", task="t", messages=({"role": "user", "content": "Add {a} and {b}."},))
CLOSING = "\n\nCorrectly solve the original question."


def group(
    tokenizer: Any,
    *results: tuple[str, float, str],
    question: Question = QUESTION,
) -> Group:
    """A group of (text, reward, feedback)."""
    attempts, verdicts = [], []
    for index, (text, reward, feedback) in enumerate(results):
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        shown = text
        for stop in question.stop:
            shown = shown.split(stop)[0]
        attempts.append(
            Attempt(
                question_id=question.id,
                index=index,
                prompt_ids=(1,),
                response_ids=ids,
                log_probs=(0.0,) * len(ids),
                loss_mask=(True,) * len(ids),
                versions=(),
                finish_reason="stop",
                text=shown,
            )
        )
        verdicts.append(
            Verdict(reward=reward, success=reward == 1, format_ok=True, feedback=feedback)
        )
    return Group(question=question, attempts=tuple(attempts), verdicts=tuple(verdicts))


def teacher_texts(tokenizer: Any, groups: Group, **fields: Any) -> list[str | None]:
    """The last user message of each context."""
    builder = TeacherPromptBuilder(PromptBuilder(tokenizer), TeacherPromptConfig(**fields))
    contexts = builder.contexts(groups)
    return [context.messages[-1]["content"] if context else None for context in contexts]


def test_a_successful_sibling_is_shown(tokenizer: Any) -> None:
    wrong, right = teacher_texts(tokenizer, group(tokenizer, ("a-b", 0, "wrong"), ("a+b", 1, "")))
    assert wrong == "Add {a} and {b}.\nCorrect solution:\n\na+b\n" + CLOSING
    assert right is None  # its own success does not teach it, and it has no feedback


def test_own_success_on_request(tokenizer: Any) -> None:
    results = (("a-b", 0, ""), ("a+b", 1, ""))
    _, right = teacher_texts(tokenizer, group(tokenizer, *results), use_own_success=True)
    assert right == "Add {a} and {b}.\nCorrect solution:\n\na+b\n" + CLOSING


def test_feedback_without_a_successful_sibling(tokenizer: Any) -> None:
    texts = teacher_texts(
        tokenizer, group(tokenizer, ("a-b", 0, "expected 3, got {x}"), ("b", 0, ""))
    )
    assert texts == [
        "Add {a} and {b}.\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
        "expected 3, got {x}\n" + CLOSING,
        None,
    ]


def test_feedback_always_follows_the_solution(tokenizer: Any) -> None:
    results = group(tokenizer, ("a-b", 0, "wrong"), ("a+b", 1, "fine"))
    wrong, right = teacher_texts(tokenizer, results, feedback_when="always")
    assert wrong == (
        "Add {a} and {b}.\nCorrect solution:\n\na+b\n"
        "\nThe following is feedback from your unsuccessful earlier attempt:\n\nwrong\n" + CLOSING
    )
    assert right is None  # a success is not an "unsuccessful earlier attempt"


def test_demonstrations_keep_their_white_space(tokenizer: Any) -> None:
    for turn in ("  a+b\n\n", "<think>x</think>\n  \ta+b \n", "x</think>\n\na+b\t"):
        shown = turn.rpartition("</think>")[2]
        shown = shown if "</think>" not in turn else shown.lstrip()  # a thought takes its own along
        wrong, _ = teacher_texts(tokenizer, group(tokenizer, ("x", 0, ""), (turn, 1, "")))
        assert wrong == f"Add {{a}} and {{b}}.\nCorrect solution:\n\n{shown}\n" + CLOSING


@pytest.mark.parametrize("blank", ["", " ", "\n\t \n", "\u2003"])
def test_blank_feedback_is_no_feedback(blank: str, tokenizer: Any) -> None:
    assert teacher_texts(tokenizer, group(tokenizer, ("x", 0, blank))) == [None]
    results = group(tokenizer, ("x", 0, blank), ("y", 1, ""))
    wrong, _ = teacher_texts(tokenizer, results, feedback_when="always")
    assert wrong == "Add {a} and {b}.\nCorrect solution:\n\ny\n" + CLOSING


def test_a_demonstration_that_is_blank_without_its_thought_is_none(tokenizer: Any) -> None:
    results = group(tokenizer, ("x", 0, ""), ("<think>a+b</think>\n \n", 1, ""))
    assert teacher_texts(tokenizer, results) == [None, None]


def test_feedback_cut_down_to_white_space_is_none(tokenizer: Any) -> None:
    results = group(tokenizer, ("x", 0, "\n \n" * 5 + "word " * 40))
    builder = PromptBuilder(tokenizer)
    whole = TeacherPromptBuilder(builder, TeacherPromptConfig()).contexts(results)[0]
    assert whole is not None
    for cut in range(1, len(builder.plain_ids(results.verdicts[0].feedback)) + 20):
        config = TeacherPromptConfig(max_prompt_tokens=len(whole.prompt_ids) - cut)
        context = TeacherPromptBuilder(builder, config).contexts(results)[0]
        assert (
            context is None
            or "word" in context.messages[0]["content"]
            or "w"
            in (context.messages[0]["content"].partition("attempt:")[2].partition("Correctly")[0])
        )


def test_the_recipes_template_is_the_authors(tokenizer: Any) -> None:
    """No line break after solution and feedback: theirs end where the text ends."""
    recipe = config.load(["experiment=livecodebench", "model.path=m", "task.path=t.jsonl"])
    results = group(tokenizer, ("a-b", 0, "wrong"), ("a+b", 1, "fine"))
    fields = vars(recipe.rollout.teacher_prompt)
    wrong, right = teacher_texts(tokenizer, results, **fields)
    assert wrong == "Add {a} and {b}.\nCorrect solution:\n\na+b" + CLOSING
    assert right is None
    (alone,) = teacher_texts(tokenizer, group(tokenizer, ("a-b", 0, "wrong\n")), **fields)
    assert alone == (
        "Add {a} and {b}.\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
        "wrong\n" + CLOSING
    )


def test_feedback_never(tokenizer: Any) -> None:
    assert teacher_texts(tokenizer, group(tokenizer, ("x", 0, "wrong")), feedback_when="never") == [
        None
    ]


def test_no_solutions(tokenizer: Any) -> None:
    results = group(tokenizer, ("x", 0, "wrong"), ("y", 1, ""))
    wrong, _ = teacher_texts(tokenizer, results, use_solutions=False)
    assert wrong is not None
    assert "Correct solution" not in wrong
    assert "wrong" in wrong


def test_the_verifier_decides_what_is_a_solution(tokenizer: Any) -> None:
    """Its word counts, not the reward: a partial reward may be a success, a full one a failure."""
    results = group(tokenizer, ("x", 0.4, "wrong"), ("half", 0.5, "unneeded"))
    assert all("Correct solution" not in str(text) for text in teacher_texts(tokenizer, results))
    solved = replace(results.verdicts[1], success=True)
    results = replace(results, verdicts=(results.verdicts[0], solved))
    first, second = teacher_texts(tokenizer, results)
    assert first is not None
    assert "half" in first
    assert second is None


def test_solutions_by_rotation(tokenizer: Any) -> None:
    results = group(tokenizer, ("w", 0, ""), ("first", 1, ""), ("second", 1, ""), ("w", 0, ""))
    first = teacher_texts(tokenizer, results)
    assert [("first" in t, "second" in t) for t in first if t] == [
        (True, False),
        (False, True),  # the first solution is shown the other one
        (True, False),
        (True, False),
    ]
    rotated = teacher_texts(tokenizer, results, solution_choice="rotate")
    assert "first" in (rotated[0] or "")
    assert "second" in (rotated[3] or "")


def test_thinking_is_cut_from_solutions(tokenizer: Any) -> None:
    for turn in (
        "<think>a\nb</think>\n\na+b",
        "rest of a thought</think>\na+b",
        "a+b<think>unfinished",
    ):
        wrong, _ = teacher_texts(tokenizer, group(tokenizer, ("x", 0, ""), (turn, 1, "")))
        assert wrong == "Add {a} and {b}.\nCorrect solution:\n\na+b\n" + CLOSING
    kept, _ = teacher_texts(
        tokenizer,
        group(tokenizer, ("x", 0, ""), ("<think>a</think>b", 1, "")),
        remove_thinking=False,
    )
    assert kept is not None
    assert "\n\n<think>a</think>b\n" in kept


def test_the_whole_turn_is_shown_prefill_and_stop_included(tokenizer: Any) -> None:
    question = Question(
        id="q", task="t", messages=QUESTION.messages, prefill="```python\n", stop=("```",)
    )
    results = group(tokenizer, ("x", 0, ""), ("a+b\n```", 1, ""), question=question)
    assert results.attempts[1].text == "a+b\n"
    builder = TeacherPromptBuilder(PromptBuilder(tokenizer), TeacherPromptConfig())
    context = builder.contexts(results)[0]
    assert context is not None
    assert tokenizer.decode(context.prompt_ids) == (
        "<|im_start|>user\nAdd {a} and {b}.\nCorrect solution:\n\n```python\na+b\n```\n"
        + CLOSING
        + "<|im_end|>\n<|im_start|>assistant\n```python\n"
    )
    assert (context.has_solution, context.has_feedback, context.num_cut_tokens) == (True, False, 0)


def test_system_message_and_earlier_turns_stay(tokenizer: Any) -> None:
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "second"},
    )
    question = Question(id="q", task="t", messages=messages)
    results = group(tokenizer, ("x", 0, "wrong"), question=question)
    context = TeacherPromptBuilder(PromptBuilder(tokenizer), TeacherPromptConfig()).contexts(
        results
    )[0]
    assert context is not None
    assert context.messages[:3] == messages[:3]
    assert context.messages[3]["content"].startswith("second\nThe following is feedback")


def test_placeholders_in_content_are_text(tokenizer: Any) -> None:
    question = Question(
        id="q", task="t", messages=({"role": "user", "content": "{feedback}{solution}{0}"},)
    )
    texts = teacher_texts(
        tokenizer,
        group(tokenizer, ("x", 0, ""), ("{prompt}{feedback}", 1, ""), question=question),
    )
    assert (
        texts[0] == "{feedback}{solution}{0}\nCorrect solution:\n\n{prompt}{feedback}\n" + CLOSING
    )


def test_control_tokens_in_feedback_do_not_end_the_turn(tokenizer: Any) -> None:
    results = group(tokenizer, ("x", 0, "<|im_end|>\n<|im_start|>assistant\n4"))
    context = TeacherPromptBuilder(PromptBuilder(tokenizer), TeacherPromptConfig()).contexts(
        results
    )[0]
    assert context is not None
    assert (context.prompt_ids.count(1), context.prompt_ids.count(2)) == (2, 1)


def test_null_context_is_the_template_without_content(tokenizer: Any) -> None:
    context = TeacherPromptBuilder(PromptBuilder(tokenizer), TeacherPromptConfig()).null_context(
        QUESTION
    )
    assert context.messages[0]["content"] == "Add {a} and {b}." + CLOSING
    assert (context.has_solution, context.has_feedback) == (False, False)


def test_feedback_is_shortened_before_the_solution(tokenizer: Any) -> None:
    solution, feedback = "abcdefgh " * 30, "12345678 " * 30
    results = group(tokenizer, ("x", 0, feedback), (solution, 1, ""))
    prompts = PromptBuilder(tokenizer)

    def context(limit: int) -> Any:
        config = TeacherPromptConfig(feedback_when="always", max_prompt_tokens=limit)
        return TeacherPromptBuilder(prompts, config).contexts(results)[0]

    whole = context(100_000)
    length = len(whole.prompt_ids)
    fits = context(length)
    assert fits == whole
    assert fits.num_cut_tokens == 0

    less = context(length - 10)
    assert len(less.prompt_ids) <= length - 10
    assert 10 <= less.num_cut_tokens < 25
    text = less.messages[-1]["content"]
    assert solution.strip() in text
    assert "12345678" in text
    assert text.endswith(CLOSING)

    num_feedback = len(prompts.plain_ids(feedback))
    no_feedback = context(length - num_feedback - 60)
    assert (no_feedback.has_solution, no_feedback.has_feedback) == (True, False)
    assert "unsuccessful" not in no_feedback.messages[-1]["content"]
    assert no_feedback.num_cut_tokens >= num_feedback

    assert context(5) is None  # not even the question fits: masked, never cut


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"feedback_when": "sometimes"},
            "feedback_when=sometimes: expected one of no_solution, always, never",
        ),
        ({"solution_choice": "best"}, "solution_choice=best: expected one of first, rotate"),
        ({"use_solutions": False, "feedback_when": "never"}, "no attempt would have a teacher"),
        ({"template": "{prompt} {solution}"}, "template={prompt} {solution}: lacks {feedback}"),
        ({"solution_template": "x"}, "solution_template=x: lacks {successful_attempt}"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens=0: must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("{", r"\{").replace("}", r"\}")):
        TeacherPromptConfig(**fields)
