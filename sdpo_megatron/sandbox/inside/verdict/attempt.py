"""Runs a hostile program in a process already locked in and with nothing worth stealing.

The job comes over the channel (descriptor 3), one statement (see `statement`) goes back over it.
What it says is the program's own word, as forgeable as its output: the host uses it for feedback,
and the value that it carries is decoded elsewhere.

Modes: "script" runs a whole program (stdin and stdout are its business), "show" does too and states
the text of its last expression, "call" calls one function once and states what it returned, "serve"
answers calls over the rpc channel (descriptor 4) until
the judge hangs up. In mode "serve" nothing of the program runs before the judge says so.
"""

from __future__ import annotations

import _thread
import ast
import contextlib
import os
import random
import sys
import threading
import types
from typing import Any

from ..fence.confine import CHANNEL_FD, OUT_OF_MEMORY, RPC_FD
from ..plain_data import (
    PlainDataError,
    decode,
    encode,
    receive_frame,
    receive_job,
    send_bytes,
    write_all,
)
from .choice import FILENAME, Unusable, choose
from .render import shorten_middle
from .statement import SHOWN_CHARS, Statement

GO = b"+"


def main() -> None:
    """Reads the job, runs it, states how it went.

    Returns when the program is over; the caller ends the process.
    """
    job = receive_job(CHANNEL_FD)
    try:
        chosen = choose(job["readings"], job["continues"], job["entry"])
    except Unusable as unusable:
        _state(unusable.statement)
        return
    if job["mode"] == "serve" and os.read(RPC_FD, 1) != GO:
        return
    random.seed()  # cloned like all else
    mode = job["mode"]
    whole = mode in ("script", "show")
    module = types.ModuleType("__main__" if whole else "attempt")
    sys.modules[module.__name__] = module
    sys.argv = ["attempt.py"]
    about = _About(chosen.offset, chosen.index)
    try:
        if job["prelude"]:
            exec(compile(job["prelude"], "<prompt>", "exec", dont_inherit=True), module.__dict__)
        shown = _show(chosen.source, module.__dict__) if mode == "show" else ""
        if mode != "show":
            exec(chosen.code, module.__dict__)
        function = None if whole else _function(module, job["entry"])
        if whole and _thread._count():
            # Waits for the program's own threads, as an exit does.
            threading._shutdown()  # type: ignore[attr-defined]
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException as error:  # whatever a hostile program raises is its result
        _finish(about.error(error))
        return
    if mode == "call":
        _finish(_call(function, tuple(decode(job["args"])), {}, about, job["answer_bytes"]))
        return
    if mode == "show":
        _finish(Statement(kind="shown", message=shown, chosen=chosen.index))
        return
    loaded = Statement(kind="loaded", chosen=chosen.index)
    _finish(loaded)
    if mode == "serve":
        send_bytes(RPC_FD, loaded.to_bytes())
        _serve(function, about, job["answer_bytes"])


def _show(source: str, names: dict[str, Any]) -> str:
    """Runs a program; the text of the value of its last statement, where that is an expression and
    the value is not None."""
    tree = ast.parse(source, FILENAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, FILENAME, "exec", dont_inherit=True), names)
    if not isinstance(last, ast.Expr):
        return ""
    code = compile(ast.Expression(last.value), FILENAME, "eval", dont_inherit=True)
    value = eval(code, names)
    return "" if value is None else shorten_middle(repr(value), SHOWN_CHARS)


def _function(module: types.ModuleType, entry: str) -> Any:
    """`f`, or `Solution.f` on a fresh instance; without such a method, the module's function."""
    first, _, method = entry.partition(".")
    if not method:
        return getattr(module, first)
    if hasattr(module, first):
        instance = getattr(module, first)()
        if hasattr(instance, method) or not hasattr(module, method):
            return getattr(instance, method)
    return getattr(module, method)


def _serve(function: Any, about: _About, limit: int) -> None:
    while True:
        try:
            call, arguments, keywords = receive_frame(RPC_FD)
        except EOFError:
            return
        answer = _call(function, arguments, keywords, about, limit, call)
        sys.stdout.flush()
        send_bytes(RPC_FD, answer.to_bytes())


def _call(
    function: Any,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    about: _About,
    limit: int,
    call: str = "",
) -> Statement:
    try:
        value = function(*arguments, **keywords)
    except MemoryError:  # there may be none left to say so in words
        os._exit(OUT_OF_MEMORY)
    except BaseException as error:
        return about.error(error, call)
    try:
        encoded = encode(value)
        if len(encoded) > limit:
            raise PlainDataError(f"it is larger than {limit >> 20} MiB")
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException as error:  # a hostile __iter__ may raise anything
        return Statement(kind="unusable", message=_text(error), chosen=about.chosen, call=call)
    return Statement(kind="value", value=encoded, chosen=about.chosen, call=call)


class _About:
    """What is known of the code that runs: lines before its first one, and its reading."""

    def __init__(self, offset: int, chosen: int) -> None:
        self.offset, self.chosen = offset, chosen

    def error(self, error: BaseException, call: str = "") -> Statement:
        """Type, message and the attempt's own line (0 when unknown); never raises."""
        if isinstance(error, SystemExit):
            return Statement(kind="exit", chosen=self.chosen, call=call)
        line = 0
        with contextlib.suppress(BaseException):
            trace = error.__traceback__
            while trace is not None:
                if trace.tb_frame.f_code.co_filename == FILENAME:
                    line = trace.tb_lineno - self.offset
                trace = trace.tb_next
        name = str(type.__getattribute__(type(error), "__name__"))
        return Statement(
            kind="raised",
            type=name,
            message=_text(error),
            line=line,
            chosen=self.chosen,
            call=call,
        )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return ""


def _finish(statement: Statement) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    _state(statement)


def _state(statement: Statement) -> None:
    write_all(CHANNEL_FD, statement.to_bytes())
