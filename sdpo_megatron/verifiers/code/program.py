"""What both benchmarks say of an attempt that is no program, and when its code is quoted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdpo_megatron.sandbox.inside.verdict.statement import Statement

from .feedback import error_text, no_code_text, unknown_name_text

if TYPE_CHECKING:
    from .config import CodeVerifierConfig


def quoted_code(config: CodeVerifierConfig, found: tuple[str, ...], report: Statement) -> str:
    """The reading that was run when code is to be quoted in feedback, else ""."""
    quoted = config.quote_code and report.chosen < len(found)
    return found[report.chosen] if quoted else ""


def no_program(report: Statement, entry: str, code: str, caller: str = "") -> dict[str, Any] | None:
    """Fields of an Outcome when nothing could be run: the entry is missing, or it does not
    compile. None when there was a program.

    `caller` is a public test that calls the entry. A program which does not define the entry is
    told so by that call and the error that it raises.
    """
    if report.kind == "missing":
        text = no_code_text(entry, report.names)
        if caller and report.names:
            text = unknown_name_text(entry, caller)
        return {"kind": "no_code", "format_ok": False, "feedback": text}
    if report.kind == "syntax":
        return {"kind": "syntax", "format_ok": False, "feedback": error_text(report, code)}
    return None
