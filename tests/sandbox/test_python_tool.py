"""The sandbox as a tool that a model calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sdpo_megatron.sandbox import PythonTool, RunLimits, Sandbox, SandboxConfig

LITTLE = RunLimits(cpu_s=1.0, wall_s=10.0, memory_mib=128, output_kib=64)


@pytest.fixture(scope="module")
def tool() -> Iterator[PythonTool]:
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        yield PythonTool(sandbox, LITTLE, max_chars=1000)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("import math\nmath.comb(10, 3)", "120"),
        ("'é' * 2", "'éé'"),
        ("x = 3", ""),
        ("print", "<built-in function print>"),
        ("print('x')", ""),
        ("for x in range(3): x", ""),
        ("    y = 2\n    y + 1  # indented as a whole", "3"),
        ("", ""),
    ],
)
def test_the_value_of_the_last_expression(tool: PythonTool, code: str, value: str) -> None:
    output = tool(code)
    assert (output.value, output.error) == (value, "")


def test_one_text_in_the_order_of_a_terminal(tool: PythonTool) -> None:
    code = "import sys\nprint(input())\nprint('careful', file=sys.stderr)\n6 * 7"
    output = tool(code, "given\n")
    assert output.text == "given\ncareful\n42"
    assert (output.stdout, output.stderr, output.value) == ("given\n", "careful\n", "42")
    assert 0 < output.cpu_s < 1
    assert tool("x = 1").text == "(no output)"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("def f():\n    raise KeyError\nf()", "KeyError (line 2)"),
        ("1 +", "SyntaxError: invalid syntax (line 1)"),
        ("input()", "EOFError: EOF when reading a line (line 1)"),
        ("exit", ""),
        ("import sys; sys.exit(3)", ""),
        ("import os; os._exit(3)", "The program ended its own process with exit code 3."),
        ("import ctypes; ctypes.string_at(0)", "The program crashed (segmentation fault)."),
        (
            "while True: pass",
            "Time limit exceeded: the program used more than 1 seconds of CPU time.",
        ),
        ("'x' * (1 << 30)", "Memory limit exceeded: the program used more than 128 MiB."),
        (
            "while True: print('x' * 1000)",
            "Output limit exceeded: the program printed more than 64 KiB.",
        ),
    ],
)
def test_what_went_wrong_is_said_in_words(tool: PythonTool, code: str, error: str) -> None:
    output = tool("" if code == "exit" else code)
    assert output.error == error
    assert output.text.endswith(error or "(no output)")


def test_long_texts_lose_their_middle(tool: PythonTool) -> None:
    output = tool("print('a' * 5000 + 'z')\n'b' * 50_000")
    assert len(output.stdout) <= 1000
    assert len(output.value) <= 1000
    assert output.stdout.startswith("aaa")
    assert output.stdout.endswith("az\n")
    assert "characters cut" in output.stdout
    assert output.value.startswith("'bbb")
    assert output.value.endswith("bb'")


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.write(3, b'x' * 40_000); os._exit(0)",
        'import os; os.write(3, b\'{"kind": "shown", "message": 7, "chosen": 0}\\n\'); os._exit(0)',
        "import os, json\nos.write(3, json.dumps(dict(kind='shown', message='x' * 4001, chosen=0))"
        ".encode() + b'\\n'); os._exit(0)",
    ],
)
def test_a_forged_report_is_no_value(tool: PythonTool, code: str) -> None:
    output = tool(code)
    assert output.value == ""
    assert output.error == "The program interfered with the channel that its value is read from."


def test_a_hostile_representation_harms_only_itself(tool: PythonTool) -> None:
    output = tool("class A:\n    def __repr__(self): raise SystemError('no')\nA()")
    assert output.error == "SystemError: no (line 2)"
    code = "class S(str):\n    def __getitem__(self, at): return 7\n    __len__ = lambda self: -1\n"
    output = tool(code + "class A:\n    def __repr__(self): return S('x')\nA()")
    assert isinstance(output.value, str)
    assert tool("1 + 1").value == "2"


def test_nothing_is_kept_and_the_fence_is_the_same(tool: PythonTool) -> None:
    kept = "import builtins, os; builtins.kept = 1; open('kept', 'w').write('x'); os.listdir('.')"
    assert tool(kept).value == "['kept']"
    assert tool("import os; (os.listdir('.'), 'kept' in dir(__builtins__))").value == "([], False)"
    assert tool("open('/etc/passwd')").error.startswith(("FileNotFoundError", "PermissionError"))
    refused = tool("import socket; socket.socket()").error
    assert refused == "PermissionError: [Errno 1] Operation not permitted (line 1)"
    assert tool("print(1)").stdout == "1\n"


def test_a_bound_of_no_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="max_chars=0: must be at least 1"):
        PythonTool(Sandbox(), max_chars=0)
