"""Runs a hostile program in a process already locked in and with nothing worth stealing.

The job comes over the channel (descriptor 3), a short report goes back over it. What the report
says is the program's own word, as forgeable as its output: the host uses it for feedback, never for
a verdict.

Modes: "script" runs a whole program (stdin and stdout are its business), "call" calls one function
once and reports what it returned, "serve" answers calls over the rpc channel (descriptor 4) until
the judge hangs up.
"""

from __future__ import annotations

import ast
import contextlib
import os
import sys
import threading
import types
from typing import Any

from .confine import CHANNEL_FD, OUT_OF_MEMORY, RPC_FD
from .plain_data import PlainDataError, encode, receive_frame, send_frame

FILENAME = "<attempt>"
_MAX_MESSAGE = 2000
_REPORT_LIMIT = 8 << 20


def main() -> None:
    """Reads the job, runs it, reports.

    Returns when the program is over; the caller ends the process.
    """
    job = receive_frame(CHANNEL_FD)
    _fresh_streams()
    try:
        code, offset, chosen = _choose(job)
    except _Unusable as error:
        send_frame(CHANNEL_FD, {"loaded": False, **error.report})
        return
    module = types.ModuleType("__main__" if job["mode"] == "script" else "attempt")
    sys.modules[module.__name__] = module
    sys.argv = ["attempt.py"]
    try:
        if job["prelude"]:
            exec(compile(job["prelude"], "<prompt>", "exec", dont_inherit=True), module.__dict__)
        exec(code, module.__dict__)
        function = None if job["mode"] == "script" else _function(module, job["entry"])
        if job["mode"] == "script":
            # Waits for the program's own threads, as an exit does.
            threading._shutdown()  # type: ignore[attr-defined]
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException as error:  # whatever a hostile program raises is its result
        _finish(job, {"loaded": True, "chosen": chosen, **_describe(error, offset)})
        return
    if job["mode"] == "call":
        result = _call(function, tuple(job["args"]), {}, offset, _REPORT_LIMIT)
        _finish(job, {"loaded": True, "chosen": chosen, **result})
        return
    _finish(job, {"loaded": True, "chosen": chosen})
    if job["mode"] == "serve":
        _serve(function, offset, job["frame_limit"])


class _Unusable(Exception):
    def __init__(self, report: dict[str, Any]) -> None:
        super().__init__()
        self.report = report


def _choose(job: dict[str, Any]) -> tuple[types.CodeType, int, int]:
    """The first reading of the response that compiles and defines the entry point: (code, line
    offset, its index)."""
    syntax: dict[str, Any] | None = None
    parsed = False
    for index, (prefix, text) in enumerate(job["readings"]):
        offset = prefix.count("\n")
        try:
            tree = ast.parse(prefix + text, FILENAME)
            if job["entry"] and not _defines(tree, job["entry"].partition(".")[0]):
                parsed = True
                continue
            return compile(tree, FILENAME, "exec", dont_inherit=True), offset, index
        except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
            if (
                syntax is None or syntax["error"]["message"] == "unexpected indent"
            ):  # a body, read as a module
                syntax = _describe(error, offset)
    if parsed or syntax is None:
        raise _Unusable({"missing": job["entry"]})
    raise _Unusable(syntax)


def _defines(tree: ast.Module, name: str) -> bool:
    """Whether some statement at the module's level (also inside if, try, with) binds `name`."""
    todo: list[ast.AST] = list(tree.body)
    for node in todo:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name == name:
                return True
        elif isinstance(node, ast.Name):
            if node.id == name and isinstance(node.ctx, ast.Store):
                return True
        elif isinstance(node, ast.alias):
            if (node.asname or node.name) == name:
                return True
        elif not isinstance(node, ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return False


def _function(module: types.ModuleType, entry: str) -> Any:
    """`f`, or `Solution.f`, which is looked up on a fresh instance."""
    first, _, method = entry.partition(".")
    found = getattr(module, first)
    return getattr(found(), method) if method else found


def _serve(function: Any, offset: int, frame_limit: int) -> None:
    send_frame(RPC_FD, "ready")
    while True:
        try:
            arguments, keywords = receive_frame(RPC_FD)
        except EOFError:
            return
        answer = _call(function, arguments, keywords, offset, frame_limit)
        sys.stdout.flush()
        send_frame(RPC_FD, answer, frame_limit + 4096)


def _call(
    function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], offset: int, limit: int
) -> dict[str, Any]:
    try:
        value = function(*arguments, **keywords)
    except MemoryError:  # there may be none left to say so in words
        os._exit(OUT_OF_MEMORY)
    except BaseException as error:
        return _describe(error, offset)
    try:
        if len(encode(value)) > limit:
            raise PlainDataError(f"it is larger than {limit >> 20} MiB")
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException as error:  # a hostile __iter__ may raise anything
        return {"unusable": _text(error)}
    return {"value": value}


def _describe(error: BaseException, offset: int) -> dict[str, Any]:
    """Type, message and the attempt's own line (0 when unknown); never raises."""
    line = 0
    try:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == FILENAME:
                line = trace.tb_lineno - offset
            trace = trace.tb_next
        if isinstance(error, SyntaxError):
            line = (error.lineno or 0) - offset
            text = str(error.msg)
        else:
            text = _text(error)
        if isinstance(error, SystemExit):
            code = error.code
            return {"exit": code if isinstance(code, int) else 0 if code is None else 1}
        return {"error": {"type": str(type(error).__name__), "message": text, "line": max(line, 0)}}
    except BaseException:
        return {"error": {"type": "Exception", "message": "", "line": 0}}


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_MESSAGE]
    except BaseException:
        return ""


def _finish(job: dict[str, Any], report: dict[str, Any]) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    send_frame(CHANNEL_FD, report)


def _fresh_streams() -> None:
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        errors = "backslashreplace" if fd == 2 else "surrogateescape"
        stream = open(fd, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
