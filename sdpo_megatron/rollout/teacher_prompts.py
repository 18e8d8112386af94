"""A teacher prompt for each attempt of a group (arXiv 2601.20802, appendix).

    {prompt}{solution}{feedback}\n\nCorrectly solve the original question.

Placeholders are replaced literally, never by `str.format`: code and templates contain braces.
Everything of the conversation stays; only the last user message is re-prompted.

Beyond the paper: the demonstration is the sibling's whole turn, the prefill that opened it and the
stop string that closed it included (the paper has neither); an attempt that succeeded is never
shown its feedback, which the template calls that of an unsuccessful one; a thought that never ends
is cut out of a demonstration as well. Demonstrations keep their white space; one that is nothing
but white space, and feedback that is, counts as none.

The templates below end each section with a line break; those of the authors' runs do not, and
neither do the paper's recipes (conf/experiment/paper.yaml).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sdpo_megatron.nouns import Attempt, Group, Message, Question, TeacherContext
from sdpo_megatron.rollout.config import TeacherPromptConfig
from sdpo_megatron.rollout.conversation import transcript
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.tokenizer import decode_response

_PLACEHOLDER = re.compile(r"\{(prompt|solution|feedback|successful_attempt)\}")
_THINKING = re.compile(r"<think>.*?(</think>\s*|\Z)", re.DOTALL)


class TeacherPromptBuilder:
    """Builds the teacher's prompts of a group."""

    def __init__(self, prompts: PromptBuilder, config: TeacherPromptConfig):
        self.prompts = prompts
        self.config = config

    def contexts(self, group: Group) -> tuple[TeacherContext | None, ...]:
        """One context an attempt; None where there is neither demonstration nor feedback to show.

        None also stands where nothing of either fits into `max_prompt_tokens`: such an attempt has
        no teacher and its loss is masked. `has_solution` and `has_feedback` say what is really in
        the prompt.
        """
        return tuple(self._context(group, index) for index in range(len(group.attempts)))

    def null_context(self, question: Question) -> TeacherContext:
        """The empty template: what the teacher's shift consists of when it is told nothing."""
        return self._build(question, "", "", 0)

    def _context(self, group: Group, index: int) -> TeacherContext | None:
        solution = self._solution(group, index)
        feedback = self._feedback(group, index, has_solution=bool(solution))
        if not solution and not feedback:
            return None
        return self._fit(group.question, solution, feedback)

    def _solution(self, group: Group, index: int) -> str:
        if not self.config.use_solutions:
            return ""
        successful = [
            attempt
            for i, (attempt, verdict) in enumerate(zip(group.attempts, group.verdicts, strict=True))
            if verdict.success and (i != index or self.config.use_own_success)
        ]
        if not successful:
            return ""
        chosen = index % len(successful) if self.config.solution_choice == "rotate" else 0
        turn = self._whole_turn(group.question, successful[chosen])
        shown = _THINKING.sub("", _after_thinking(turn)) if self.config.remove_thinking else turn
        return shown if shown.strip() else ""

    def _feedback(self, group: Group, index: int, *, has_solution: bool) -> str:
        verdict = group.verdicts[index]
        if verdict.success or self.config.feedback_when == "never":
            return ""
        if has_solution and self.config.feedback_when == "no_solution":
            return ""
        # Blank feedback would make a teacher of the bare template, whose wording is all it distils.
        return verdict.feedback if verdict.feedback.strip() else ""

    def _whole_turn(self, question: Question, attempt: Attempt) -> str:
        """The assistant's turn as it stood: prefill, text, and the stop string that was sampled; a
        conversation with a tool as a whole."""
        if attempt.turns:
            return transcript(attempt.turns)
        sampled = decode_response(self.prompts.tokenizer, attempt.prompt_ids, attempt.response_ids)
        ending = next(
            (stop for stop in question.stop if sampled.startswith(attempt.text + stop)), ""
        )
        return question.prefill + attempt.text + ending

    def _fit(self, question: Question, solution: str, feedback: str) -> TeacherContext | None:
        """Shorten the feedback, then the solution, until the prompt fits; never anything else."""
        num_cut = 0
        context = self._build(question, solution, feedback, num_cut)
        while (excess := len(context.prompt_ids) - self.config.max_prompt_tokens) > 0:
            if feedback:
                feedback, cut = self._shorten(feedback, excess)
            elif solution:
                solution, cut = self._shorten(solution, excess)
            else:
                return None  # the question alone is too long
            num_cut += cut
            context = self._build(question, solution, feedback, num_cut)
        return context if solution or feedback else None

    def _shorten(self, text: str, num_tokens: int) -> tuple[str, int]:
        """Cut tokens off the end; the second value is how many."""
        ids = self.prompts.plain_ids(text)
        kept = max(len(ids) - num_tokens, 0)
        shorter = str(self.prompts.tokenizer.decode(ids[:kept])).rstrip("\ufffd") if kept else ""
        return (shorter, len(ids) - kept) if shorter.strip() else ("", len(ids))

    def _build(
        self, question: Question, solution: str, feedback: str, num_cut: int
    ) -> TeacherContext:
        messages = self._reprompt(question.messages, solution, feedback)
        return TeacherContext(
            prompt_ids=self.prompts.encode(messages, question.prefill),
            messages=messages,
            has_solution=bool(solution),
            has_feedback=bool(feedback),
            num_cut_tokens=num_cut,
        )

    def _reprompt(
        self, messages: Sequence[Message], solution: str, feedback: str
    ) -> tuple[Message, ...]:
        last = max(index for index, message in enumerate(messages) if message["role"] == "user")
        section = {"successful_attempt": solution, "feedback": feedback}
        content = fill(
            self.config.template,
            prompt=messages[last]["content"],
            solution=fill(self.config.solution_template, **section) if solution else "",
            feedback=fill(self.config.feedback_template, **section) if feedback else "",
        )
        return (*messages[:last], {**messages[last], "content": content}, *messages[last + 1 :])


def fill(template: str, **values: str) -> str:
    """Replace {name} by its value, once and literally: braces in values are text."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def _after_thinking(turn: str) -> str:
    """Drop a thought whose opening tag was part of the generation prompt."""
    head, tag, tail = turn.partition("</think>")
    return tail.lstrip() if tag and "<think>" not in head else turn
