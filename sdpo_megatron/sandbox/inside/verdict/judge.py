"""Runs trusted tests against an attempt in another process, reached by plain data only.

The attempt sees the arguments of one call at a time, nothing else: no test source, no expected
value, no nonce. What it says is read as a `Statement`; the value that this carries is decoded,
compared and rendered here, so a hostile __eq__, a patched builtin or a walk over frames has nothing
to work on, and what the value costs is borne by this process. The tests are data-set code, so this
process is locked in as well.

The report is a record a line (see `judgement`), written as things happen: if the judge comes to
grief over an answer, the host knows which.
"""

from __future__ import annotations

import os
import random
import signal
from typing import Any, NoReturn

from ..fence.confine import CHANNEL_FD, RPC_FD
from ..plain_data import (
    Opaque,
    PlainDataError,
    decode,
    receive_bytes,
    receive_job,
    send_frame,
    write_all,
)
from . import difference
from .attempt import GO
from .checks import Wrong, run_test
from .judgement import write_line
from .rehearsal import SEED, rehearse, set_up
from .render import render, render_call
from .statement import HEAD_BYTES, RUN_ANSWER_BYTES, Statement, read_statement


class AttemptFailed(Exception):
    """The attempt answered, but with no value: it raised, called exit, or has no usable value."""

    def __init__(self, statement: Statement) -> None:
        super().__init__("the attempt returned no value")
        self.statement = statement


class AttemptLost(BaseException):
    """The attempt cannot answer any more: "died" (the worker knows of what) or "garbage"."""


class Report:
    """The judge's lines to the host."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce

    def say(self, kind: str, **values: Any) -> None:
        """Writes one line; fields that are not given are empty."""
        write_all(CHANNEL_FD, write_line(self._nonce, kind, values))


class Candidate:
    """Stands for the attempt's function in the tests.

    Remembers the last call's arguments and what came back.
    """

    def __init__(self, entry: str, answer_bytes: int, report: Report) -> None:
        self._entry, self._limit, self._report = entry, answer_bytes, report
        self._received = 0
        self.lost = ""
        self.begin(0)

    def begin(self, test: int) -> None:
        """Forgets the last test's calls."""
        self._test, self.answered = test, False
        self._arguments: tuple[Any, ...] = ()
        self._keywords: dict[str, Any] = {}
        self.value: Any = None

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self._arguments, self._keywords = arguments, keywords
        call = os.urandom(8).hex()
        try:
            send_frame(RPC_FD, (call, arguments, keywords))
        except OSError:
            self._lose("died")
        statement = self._receive(HEAD_BYTES + self._limit)
        if statement.call != call:
            self._lose("garbage")
        if not self.answered:
            self._report.say("answered", test=self._test)
        self.answered = True
        if statement.kind != "value":
            raise AttemptFailed(statement)
        self._received += len(statement.value)
        if self._received > RUN_ANSWER_BYTES:
            total = f"all answers together are larger than {RUN_ANSWER_BYTES >> 20} MiB"
            raise AttemptFailed(Statement(kind="unusable", message=total))
        try:
            self.value = decode(statement.value)
        except PlainDataError:
            self._lose("garbage")
        return self.value

    def wait_loaded(self) -> None:
        """Lets the attempt run, and waits until its function is there."""
        try:
            write_all(RPC_FD, GO)
        except OSError:
            self._lose("died")
        if self._receive(HEAD_BYTES).kind != "loaded":
            self._lose("garbage")

    def _receive(self, limit: int) -> Statement:
        try:
            statement = read_statement(receive_bytes(RPC_FD, limit))
        except (EOFError, OSError):
            self._lose("died")
        except PlainDataError:
            self._lose("garbage")
        if statement.kind in ("", "garbage"):
            self._lose("garbage")
        return statement

    def _lose(self, why: str) -> NoReturn:
        self.lost = why
        raise AttemptLost(why)

    def call_text(self, limit: int) -> str:
        """The last call as the attempt's author would write it."""
        return render_call(self._entry, self._arguments, self._keywords, limit)


def main() -> None:
    """Reads the judging job from the channel, runs it, reports."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # an attempt that hangs up is told as such
    job = receive_job(CHANNEL_FD)
    report = Report(job["nonce"])
    entry, tests, sources = job["entry"], job["tests"], job["setup"]
    problem = rehearse(sources, tests, entry) if job["rehearse"] else ""
    if not problem:
        try:
            names = set_up(sources)
        except Exception as error:
            problem = f"what comes before the tests raises {type(error).__name__}: {error}"
    if problem:
        report.say("broken", message=problem)
        return
    report.say("set_up")
    candidate = Candidate(entry, job["answer_bytes"], report)
    names["candidate"] = names[entry] = candidate
    shown, limit = set(job["shown"]), job["text_limit"]
    try:
        candidate.wait_loaded()
        for index, source in tests:
            failure = _run_test(source, names, candidate, index, limit if index in shown else 0)
            if failure is None:
                report.say("passed", test=index)
                continue
            kind, words = failure
            report.say(kind, test=index, **words)
            if candidate.lost:
                return
            if words:
                shown.clear()  # only the first failure is told
            if job["stop_at_failure"]:
                break
    except AttemptLost:
        return
    report.say("done")


def _run_test(
    source: str, names: dict[str, Any], candidate: Candidate, index: int, limit: int
) -> tuple[str, dict[str, Any]] | None:
    """How the test fails: a kind and its words, which are none for `limit` 0. None: it passes."""
    candidate.begin(index)
    random.seed(SEED)
    failure: _Failure | None = None
    try:
        run_test(source, names)
    except AttemptFailed as error:
        failure = _Failure(error.statement.kind, statement=error.statement)
    except AttemptLost as error:
        failure = _Failure(str(error))
    except Wrong as wrong:
        failure = _Failure("wrong", wrong=wrong)
    except AssertionError:
        failure = _Failure("wrong")
    except Exception as error:  # e.g. abs(None - 1): the value has the wrong type for the check
        problem = f"the check of the returned value raised {type(error).__name__}"
        failure = _Failure("wrong", problem=problem)
    if failure is None:
        return None
    return failure.kind, failure.words(candidate, limit) if limit else {}


class _Failure:
    """How a test failed, and what may be told of it."""

    def __init__(
        self,
        kind: str,
        statement: Statement | None = None,
        wrong: Wrong | None = None,
        problem: str = "",
    ) -> None:
        self.kind, self._statement, self._wrong, self._problem = kind, statement, wrong, problem

    def words(self, candidate: Candidate, limit: int) -> dict[str, Any]:
        words: dict[str, Any] = {"call": candidate.call_text(limit), "problem": self._problem}
        statement, wrong = self._statement, self._wrong
        if statement is not None:
            return words | {
                "type": statement.type,
                "message": statement.message,
                "line": statement.line,
            }
        if self.kind != "wrong":
            return words
        if wrong is not None:
            words["condition"] = wrong.condition
        if not candidate.answered:
            return words
        if isinstance(candidate.value, Opaque):
            words["got"] = f"an object of type {candidate.value.type_name}"
        else:
            words["got"] = render(candidate.value, limit)
        if wrong is not None and wrong.compared:
            words["expected"] = render(wrong.expected, limit)
            if not isinstance(candidate.value, Opaque):
                found = difference.of_values(wrong.expected, candidate.value, limit)
                words |= vars(found)
        return words
