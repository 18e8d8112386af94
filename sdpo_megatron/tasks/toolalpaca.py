"""ToolAlpaca (arXiv 2306.05301) as in the SDPO authors' data.

Layout: ``prompt``, ``answer`` = JSON list of calls. A call is ``{"Action": tool, "Action_Input":
JSON object as text}``. Conventions of the data, kept here: a tool named ``[Optional]x`` may be
called or not; an argument that is "" or null may be left out.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.lines import Line
from sdpo_megatron.tasks.task import DATA, Layout, item_options
from sdpo_megatron.verifiers.tool_call import UnreadableCalls
from sdpo_megatron.verifiers.tool_calls import call_of_json

OPTIONAL = "[Optional]"
_TOOL = re.compile(
    r"^(?P<name>[A-Za-z_]\w*): [^\n]*\nParameters: (?P<parameters>\{.*\})$", re.MULTILINE
)


def question(line: Line, config: TaskConfig) -> Question:
    """The prompt says how to write calls; `config.instruction` precedes it as a system message.

    An item whose expected calls the prompt does not offer is left out: nobody can answer it.
    """
    prompt = line.text("prompt")
    calls = [
        _call(line, number, entry)
        for number, entry in enumerate(line.json("answer", list), start=1)
    ]
    if not calls:
        line.fail("key 'answer': expected at least one call")
    tools = offered_tools(prompt)
    missing = sorted({call["name"] for call in calls if tools and call["name"] not in tools})
    if missing:
        line.leave_out(
            f"the answer calls {', '.join(missing)}, but the prompt offers only {', '.join(tools)}"
        )
    system = config.instruction or line.get("system", default="")
    messages = [{"role": "system", "content": system}] if system else []
    return Question(
        id=str(line.get("idx", (int, str))),
        task=config.name,
        messages=(*messages, {"role": "user", "content": prompt}),
        stop=("\nObservation:",),  # what comes back from a tool is not the model's to write
        item={"calls": calls, "tools": tools, **item_options(config)},
    )


def offered_tools(prompt: str) -> dict[str, list[str]]:
    """Tool -> names of its arguments, read from the prompt's documentation."""
    tools = {}
    for tool in _TOOL.finditer(prompt):
        try:
            tools[tool["name"]] = sorted(json.loads(tool["parameters"]))
        except (ValueError, RecursionError):
            continue  # an undocumented tool only makes feedback less specific
    return tools


def _call(line: Line, number: int, entry: Any) -> dict[str, Any]:
    try:
        call = call_of_json(entry, number)
    except UnreadableCalls as error:
        line.fail(f"key 'answer', call {number}: {error}")
    arguments = {
        name: ["", None] if value in ("", None) else [value]
        for name, value in call.arguments.items()
    }
    return {
        "name": call.name.removeprefix(OPTIONAL),
        "arguments": arguments,
        "optional": call.name.startswith(OPTIONAL),
    }


LAYOUT = Layout(
    question=question,
    verifier="tool_use",
    packaged=lambda config: DATA / "toolalpaca" / "own.jsonl",
)
