r"""Takes the dress off a final answer: LaTeX's and Markdown's ways of writing the same characters.

``$\textbf{1\,080}$``, ``**1,080**`` and ``1 080`` all become text that `quantities` reads.
"""

from __future__ import annotations

import re

CURRENCY = "\u00a4"  # stands for an escaped or lone dollar, once dollars that delimit are gone
_UNWRAP = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|emph|mathbf|mathrm|mathit|mathsf|mathtt"
    r"|boldsymbol|bm|mbox|hbox|operatorname|underline|boxed|fbox|displaylines)\s?\{([^{}]{0,400})\}"
)
_SWITCH = re.compile(
    r"\\(?:displaystyle|textstyle|bf|rm|it|large|Large|left|right|[bB]igg?[lr]?)(?![a-zA-Z])"
)
_GROUP = re.compile(r",\s?\\[!,;]\s?(?=\d)")  # 1,\!080
_THIN = re.compile(r"(?<!\\)\\[,;: ]|\\(?:quad|qquad|thinspace|enspace|space)(?![a-zA-Z])|~|&nbsp;")
_DEGREES = re.compile(r"\\degrees?(?![a-z])|\^\s?(?:\{\s?\\circ\s?\}|\\circ)")
_SAME = {
    "\\$": CURRENCY,
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
    "\\cfrac": "\\frac",
    "\\%": "%",
    "\\!": "",
    "\\/": "",
    "{,}": ",",
    "{:}": ":",
    "\u2212": "-",
    "\u2013": "-",
    "\u2010": "-",
    "\u2011": "-",
    "\u2044": "/",
    "\u00d7": "\\times ",
    "\u00b7": "\\cdot ",
    "\u03c0": "\\pi ",
    "\u221e": "\\infty ",
    "\u2019": "'",
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
    "\u00b2": "^2",
    "\u00b3": "^3",
    "\\colon": ":",
}
_EMPHASIS = re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?=[\s:.,;)]|$)")
_QUOTES = ('""', "''", "\u201c\u201d", "__")


def undressed(text: str) -> str:
    """`text` without delimiters, fonts, emphasis, LaTeX blanks and a closing full stop.

    Meant for a final answer: the caller bounds its length. Idempotent on what it returns.
    """
    text = text.strip()
    for delimiter in ("\\(", "\\)", "\\[", "\\]"):
        text = text.replace(delimiter, " ")
    text = _GROUP.sub(",", text)
    for written, meant in _SAME.items():
        text = text.replace(written, meant)
    for _ in range(4):  # fonts within fonts
        text, count = _UNWRAP.subn(r" \1 ", text)
        if not count:
            break
    text = _THIN.sub(" ", _DEGREES.sub("\u00b0", _SWITCH.sub("", text))).replace(", ,", ",")
    if text.count("$") % 2:  # a dollar of its own is money
        text = text.replace("$", CURRENCY, 1)
    text = _EMPHASIS.sub("", " ".join(text.replace("$", " ").split())).replace(" ^", "^")
    for _ in range(4):
        text = _without_quotes(text.strip("*` ").rstrip(".;:, "))
    return text


def _without_quotes(text: str) -> str:
    if len(text) > 2 and text[0] + text[-1] in _QUOTES:
        return text[1:-1].strip()
    if text[:1] == "{" and text[-1:] == "}" and "{" not in text[1:] and "}" not in text[:-1]:
        return text[1:-1].strip()
    return text


def canonical(text: str) -> str:
    """`undressed` without blanks and needless braces: equal texts are the same as written."""
    text = re.sub(r"\{(\w)\}", r"\1", undressed(text))
    return text.replace(" ", "")
