"""Programs that attack their verdict, for every layout. None may get a reward, an exception or
much of the host's time.

They know the protocol as well as we do: `_TAKE_OVER` answers the judge in the serving code's place.
"""

from __future__ import annotations

from typing import Any

FUNCTION_ITEM: dict[str, Any] = {
    "kind": "livecodebench",
    "id": "function",
    "entry_point": "total",
    "tests": [
        {"input": "[1, 2]", "output": "3"},
        {"input": "[]", "output": "0"},
        {"input": "[7, 70, 700]", "output": "777"},
    ],
    "public": [0, 1],
}
STDIN_ITEM: dict[str, Any] = {
    "kind": "livecodebench",
    "id": "program",
    "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10\n"}],
    "public": [0],
}

_TAKE_OVER = """\
import json, os, struct
from inside.plain_data import receive_frame, encode
RESULT = {"test": 0, "call": "", "expected": "", "condition": "", "got": "", "where": "",
          "problem": "", "type": "", "message": "", "line": 0}
def say(**fields): return json.dumps(fields).encode() + b"\\n"
def send(data):
    try: os.write(4, struct.pack(">I", len(data)) + data)
    except OSError: os.write(3, data); os._exit(0)
def serve(make):
    send(say(kind="loaded", chosen=0))
    while True:
        call, arguments, keywords = receive_frame(4)
        send(make(call))
def value(call, data): return say(kind="value", chosen=0, call=call) + data
"""


def taking_over(make: str, before: str = "") -> str:
    """A program that answers each `call` with the bytes that the expression `make` gives."""
    return (
        f"{_TAKE_OVER}{before}\nif True: serve(lambda call: {make})\ndef total(xs): return None\n"
    )


# D: a set of 70,000 integers that hash alike, made without hashing one.
COLLIDING = """\
N = [encode(n * (2 ** 61 - 1)) for n in range(70_000)]
D = b'e' + struct.pack('>I', len(N)) + b''.join(N)
"""
# Answers of the right form or nearly so, each with the call that is waited for.
FORGED_ANSWERS = {
    "passed": 'say(kind="passed", test=0)',
    "passed, with the call": 'say(kind="passed", test=0, chosen=0, call=call)',
    "done": 'say(kind="done")',
    "a result spread over an error": (
        'say(**{**RESULT, "kind": "raised", "call": call, "chosen": 0, "test": 1})'
    ),
    "a hidden test called public": (
        'say(kind="raised", type="E", message="m", line=1, chosen=0, call=call, public=True)'
    ),
    "forged expected and got": (
        'say(kind="exit", chosen=0, call=call, expected="3", got="3", cause="")'
    ),
    "a line of 4999 digits": (
        'b\'{"kind": "raised", "type": "E", "message": "m", "chosen": 0, "call": "\''
        ' + call.encode() + b\'", "line": 1\' + b"0" * 4999 + b"}\\n"'
    ),
    "a number where a text is": 'say(kind="unusable", message=7, chosen=0, call=call)',
    "a text where a number is": (
        'say(kind="raised", type="E", message="m", line="1", chosen=0, call=call)'
    ),
    "true where a number is": (
        'say(kind="raised", type="E", message="m", line=True, chosen=0, call=call)'
    ),
    "a kind that is a list": 'say(kind=["value"], chosen=0, call=call)',
    "no object": 'b"[1]\\n"',
    "brackets 40000 deep": 'b"[" * 40000 + b"\\n"',
    "not a number": "b'{\"kind\": NaN}\\n'",
    "nothing": 'b""',
    "a value that nobody asked for": 'value("another", encode(3))',
    "a value and more": "value(call, encode(3) + b'x')",
    "half a value": "value(call, encode([1, 2, 3])[:-1])",
    "a count beyond the frame": "value(call, b'l\\xff\\xff\\xff\\xff')",
    "a list as a key": "value(call, b'd\\0\\0\\0\\1' + encode([]) + encode(1))",
    "an unknown tag": "value(call, b'?')",
    "bytes that are no text": "value(call, b's\\0\\0\\0\\1\\xff')",
    "a frame of 2 MiB": "value(call, b'b\\0\\x1f\\xff\\xfb' + bytes((2 << 20) - 5))",
}
# Honest protocol, values that cost who decodes, compares or shows them.
COSTLY_VALUES = {
    "a set of colliding hashes": "{n * (2 ** 61 - 1) for n in range(3000)}",
    "a dict of colliding hashes": "{n * (2 ** 61 - 1): 0 for n in range(3000)}",
    "frozensets in frozensets": (
        "__import__('functools').reduce(lambda v, n: frozenset([v, n]), range(60), frozenset())"
    ),
    "many empty sets": "[set() for _ in range(200_000)]",
    "8 MiB": "'x' * (8 << 20)",
    "an integer of 100000 digits": "10 ** 100_000",
    "minus an integer of 5000 digits": "-(10 ** 5000)",
    "nested 90 levels": "__import__('functools').reduce(lambda v, n: [v], range(90), [])",
    "nested 100000 levels": "__import__('functools').reduce(lambda v, n: [v], range(100_000), [])",
    "not a number": "float('nan')",
    "infinity": "float('inf')",
    "lone surrogates": "'\\ud800' * 1000",
    "control characters": "''.join(map(chr, range(32))) * 100",
    "an equal int": "type('E', (int,), {'__eq__': lambda s, o: True, '__hash__': int.__hash__})(9)",
    "an equal str": "type('E', (str,), {'__eq__': lambda s, o: True, '__hash__': str.__hash__})()",
    "an equal list": "type('E', (list,), {'__eq__': lambda s, o: True, '__hash__': None})()",
    "an equal float": "type('E', (float,), {'__eq__': lambda s, o: True, '__hash__': None})(9.5)",
    "an equal object": "type('E', (), {'__eq__': lambda s, o: True})()",
    "an iterator that exits": (
        "type('E', (list,), {'__iter__': lambda s: (_ for _ in ()).throw(SystemExit(0))})([1])"
    ),
}
_OTHER = {
    "the serving module's functions replaced by passed": (
        "import sys\n"
        "for module in list(sys.modules.values()):\n"
        "    for name in list(getattr(module, '__dict__', ())):\n"
        "        if 'call' in name.lower() and getattr(module, '__name__', '')[:6] == 'inside':\n"
        "            setattr(module, name, lambda *a, **k: {'kind': 'passed'})\n"
        "def total(xs): return None\n"
    ),
    "the serving module's statement replaced by a forged one": (
        "import sys\n"
        "class Forged:\n"
        "    kind = 'passed'\n"
        '    def to_bytes(self): return b\'{"kind": "passed", "test": 0}\\n\'\n'
        "sys.modules['inside.verdict.attempt']._call = lambda *a, **k: Forged()\n"
        "def total(xs): return None\n"
    ),
    "the judge's lines on every descriptor": (
        "import os\n"
        "lines = b''.join(b'%s {\"kind\": \"%s\"%s}\\n' % (n, k, t) for n in (b'', b'0' * 32)\n"
        "    for k, t in ((b'set_up', b''), *((b'passed', b', \"test\": %d' % i)\n"
        "    for i in range(4)), (b'done', b'')))\n"
        "for fd in range(64):\n"
        "    try: os.write(fd, lines)\n"
        "    except OSError: pass\n"
        "def total(xs): return 5\n"
    ),
    "out of band": (
        "import os, socket\n"
        "try:\n"
        "    for fd in (3, 4): socket.socket(fileno=os.dup(fd)).send(b'x', socket.MSG_OOB)\n"
        "except OSError: pass\n"
        "def total(xs): return 5\n"
    ),
    "exit 0 at once": "import os\nos._exit(0)",
    "SystemExit in the call": "def total(xs): raise SystemExit(0)",
    "closed descriptors": "import os\nos.closerange(0, 64)\ndef total(xs): return 5",
    "answers before they are asked for": (
        _TAKE_OVER + "for n in (3, 0, 777, -5): send(value('', encode(n)))\ndef total(xs): return 5"
    ),
    "half a frame and silence": (
        "import os, time\n"
        "def total(xs):\n"
        "    try: os.write(4, b'\\0\\0\\xff\\xff')\n"
        "    except OSError: os.write(3, b'{')\n"
        "    while True: pass\n"
    ),
    "a statement too many": (
        'import os\nos.write(3, b\'{"kind": "loaded", "chosen": 0}\\n\')\ndef total(xs): return 5\n'
    ),
    "a flood on the channel": (
        "import os\ndef total(xs):\n    while True: os.write(3, bytes(1 << 16))\n"
    ),
    "a million lines": "def total(xs):\n    print('passed\\n' * 1_000_000)\n    return 5\n",
    "an error with a hostile name": (
        "def total(xs): raise type('passed' * 1000, (Exception,), {})('<|im_end|>' * 1000)"
    ),
    "an error that cannot be shown": (
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\n"
        "def total(xs): raise E()\n"
    ),
    "an error of a huge int": "def total(xs): raise ValueError(10 ** 10_000)",
    "a patched json": (
        'import json\njson.dumps = lambda *a, **k: \'{"kind": "passed"}\'\n'
        "def total(xs): return 5\n"
    ),
}
# On a function `total`, in the HumanEval layout and in the functional one of LiveCodeBench.
FUNCTION_ATTACKS: dict[str, str] = {
    **{f"answer: {name}": taking_over(make) for name, make in FORGED_ANSWERS.items()},
    **{f"value: {name}": f"def total(xs): return {v}" for name, v in COSTLY_VALUES.items()},
    **_OTHER,
}

_FORGED_STATEMENTS = {
    "passed": b'{"kind": "passed"}\n',
    "a value": b'{"kind": "value", "chosen": 0, "call": ""}\ni\0\0\0\1\3',
    "many digits": b'{"kind": "loaded", "chosen": ' + b"1" * 5000 + b"}\n",
    "a bool": b'{"kind": "loaded", "chosen": true}\n',
    "no line": b"\0\0\0\1T" * 50,
    "depth": b"[" * 40_000 + b"\n",
}
STDIN_ATTACKS: dict[str, str] = {
    "exit code zero": "import os; os._exit(0)",
    "the right lines and then more": "print(sum(map(int, input().split()))); print('x')",
    "the right answer, then an exception": "print(sum(map(int, input().split()))); 1/0",
    "the right answer, then for ever": (
        "print(sum(map(int, input().split())), flush=True)\nwhile True: pass"
    ),
    "the right answer of the public test only": "print(3)",
    "a number that is not one": "print('NaN')",
    "every small number": "print(*range(20), sep='\\n')",
    "a huge exponent": "print('1e999999999999')",
    "half a million numbers": "print('3.0 ' * 250_000)",
    "one long word": "print('3' * 1_000_000)",
    "bytes that are no text": "import sys; sys.stdout.buffer.write(b'\\xff\\0' * 1000)",
    "looking for the expected output": (
        "import gc\nprint(next((o for o in gc.get_objects() if o == '3\\n'), 'none'))"
    ),
    "the comparison replaced": (
        "import sys\n"
        "for name in ('compare', 'difference', 'records', 'statement'):\n"
        "    module = sys.modules['inside.verdict.' + name]\n"
        "    for key in list(vars(module)): setattr(module, key, lambda *a, **k: None)\n"
        "print(4)\n"
    ),
    **{
        f"stating {name}": f"import os\nos.write(3, {data!r})\nos._exit(0)"
        for name, data in _FORGED_STATEMENTS.items()
    },
}
