"""Runs trusted tests against an attempt in another process, reached by plain data only.

The attempt sees the arguments of one call at a time, nothing else: no test source, no expected
value, no nonce. What it returns is decoded into plain values here, so a hostile __eq__, a patched
builtin or a walk over frames has nothing to work on. The tests themselves are data-set code, so
this process is locked in as well.
"""

from __future__ import annotations

import ast
import random
from typing import Any

from .confine import CHANNEL_FD, RPC_FD
from .plain_data import Opaque, PlainDataError, receive_frame, send_frame
from .render import render


class CandidateRaised(Exception):
    """The attempt raised; `error` is its own description."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__("the candidate raised")
        self.error = error


class CandidateGone(BaseException):
    """The attempt cannot answer any more: "died" (the worker knows of what) or "garbage"."""


class Candidate:
    """Stands for the attempt's function in the tests.

    Remembers the last call's arguments and what came back.
    """

    def __init__(self, entry: str, frame_limit: int) -> None:
        self.entry, self.frame_limit = entry, frame_limit
        self.arguments: tuple[Any, ...] = ()
        self.keywords: dict[str, Any] = {}
        self.value: Any = None
        self.answered = False
        self.gone = ""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.arguments, self.keywords, self.answered = arguments, keywords, False
        try:
            send_frame(RPC_FD, (arguments, keywords))
        except OSError:
            self._lose("died")
        answer = self._receive()
        if not isinstance(answer, dict):
            self._lose("garbage")
        if "value" in answer:
            self.value, self.answered = answer["value"], True
            return answer["value"]
        raise CandidateRaised(answer)

    def wait_ready(self) -> None:
        self._receive()

    def _receive(self) -> Any:
        try:
            return receive_frame(RPC_FD, self.frame_limit + 8192)
        except (EOFError, OSError):
            self._lose("died")
        except PlainDataError:
            self._lose("garbage")

    def _lose(self, why: str) -> None:
        self.gone = why
        raise CandidateGone(why)

    def call_text(self) -> str:
        """The last call as the attempt's author would write it."""
        parts = [render(value) for value in self.arguments]
        parts += [f"{name}={render(value)}" for name, value in self.keywords.items()]
        return f"{self.entry}({', '.join(parts)})"


def main() -> None:
    """Reads the judging job from the channel, runs it, reports with the job's nonce."""
    job = receive_frame(CHANNEL_FD)
    results: list[dict[str, Any]] = []
    candidate = Candidate(job["entry"], job["frame_limit"])
    report: dict[str, Any] = {"nonce": job["nonce"], "results": results}
    try:
        candidate.wait_ready()
        names: dict[str, Any] = {"__name__": "tests"}
        _seed(names)
        for source in job["setup"]:
            exec(compile(source, "<tests>", "exec"), names)
        names["candidate"] = names[job["entry"]] = candidate
        for index, source in job["tests"]:
            _seed(names)
            result = _run_test(source, names, candidate)
            results.append({"test": index, **result})
            if result["kind"] != "passed" and job["stop_at_failure"]:
                break
    except CandidateGone as error:
        report["gone"] = str(error)
    except Exception as error:  # a broken data set must be told apart from a wrong answer
        report["broken"] = f"{type(error).__name__}: {error}"[:2000]
    send_frame(CHANNEL_FD, report)


def _seed(names: dict[str, Any]) -> None:
    """Some tests draw random inputs: the same ones on every run, whichever tests ran before."""
    random.seed(20260101)


def _run_test(source: str, names: dict[str, Any], candidate: Candidate) -> dict[str, Any]:
    candidate.answered = False
    candidate.arguments, candidate.keywords = (), {}
    try:
        _evaluate(ast.parse(source).body, names)
    except CandidateRaised as error:
        return {"kind": "raised", "call": candidate.call_text(), **error.error}
    except CandidateGone as error:
        return {"kind": str(error), "call": candidate.call_text()}
    except _Wrong as wrong:
        return {"kind": "wrong", "call": candidate.call_text(), **_got(candidate), **wrong.facts}
    except AssertionError:
        return {"kind": "wrong", "call": candidate.call_text(), **_got(candidate)}
    except Exception as error:  # e.g. abs(None - 1): the value has the wrong type for the check
        if not candidate.answered:
            raise
        problem = f"the check of the returned value raised {type(error).__name__}"
        return {
            "kind": "wrong",
            "call": candidate.call_text(),
            **_got(candidate),
            "problem": problem,
        }
    return {"kind": "passed"}


def _got(candidate: Candidate) -> dict[str, Any]:
    if not candidate.answered:
        return {}
    if isinstance(candidate.value, Opaque):
        return {"got": f"an object of type {candidate.value.type_name}"}
    return {"got": render(candidate.value)}


class _Wrong(Exception):
    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self.facts = facts


def _evaluate(body: list[ast.stmt], names: dict[str, Any]) -> None:
    """Runs a test's statements, each `assert` replaced by a check keeping both compared sides."""
    tree = _AssertSplitter().visit(ast.Module(body=body, type_ignores=[]))
    ast.fix_missing_locations(tree)
    exec(
        compile(tree, "<tests>", "exec"),
        {**names, "__check_equal": _check_equal, "__check": _check},
    )


def _check_equal(left: Any, right: Any, candidate_is_left: bool) -> None:
    if not left == right:
        raise _Wrong({"expected": render(right if candidate_is_left else left)})


def _check(value: Any, condition: str) -> None:
    if not value:
        raise _Wrong({"condition": condition})


class _AssertSplitter(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            left, right = test.left, test.comparators[0]
            for is_left, side, other in ((True, left, right), (False, right, left)):
                if _is_candidate_call(side) and not _mentions_candidate(other):
                    return _call_statement("__check_equal", left, right, ast.Constant(is_left))
        return _call_statement("__check", test, ast.Constant(ast.unparse(test)))


def _call_statement(name: str, *arguments: ast.expr) -> ast.Expr:
    return ast.Expr(ast.Call(ast.Name(name, ast.Load()), list(arguments), []))


def _is_candidate_call(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "candidate"
    )


def _mentions_candidate(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "candidate" for part in ast.walk(node))
