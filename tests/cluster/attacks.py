"""Run inside a verifier pod: programs that want out of the sandbox, judged by the pod's service.

Prints, as JSON, for each program whether it was judged as right, what it was told, and the layers.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

PROMPT = 'def add(a, b):\n    """Add."""\n'
TEST = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(5, 5) == 10\n"
PROGRAMS = {
    "honest": "",
    "network": "import socket; socket.socket().connect(('10.96.0.1', 443))",
    "token": "open('/etc/sdpo/verifier/token').read()",
    "tests": "open('/opt/sdpo/source/sdpo_megatron/nouns.py').read()",
    "other processes": "open('/proc/1/environ', 'rb').read()",
    "kill": "import os; os.kill(-1, 9)",
    "host files": "open('/etc/passwd').read()",
    "write": "open('/opt/written', 'w')",
}


def main() -> None:
    """Ask for all of them in one request."""
    token = Path("/etc/sdpo/verifier/token").read_text().strip()
    items = [
        {
            "id": name,
            "verifier": "code",
            "item": {
                "kind": "humaneval", "id": "x", "prompt": PROMPT, "test": TEST,
                "entry_point": "add", "public": [0],
            },
            "response": f"```python\n{PROMPT}    {program or 'pass'}\n    return a + b\n```",
        }
        for name, program in PROGRAMS.items()
    ]  # fmt: skip
    request = urllib.request.Request(
        "http://127.0.0.1:9401/v1/verify",
        json.dumps({"items": items}).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        results = json.load(answer)["results"]
    told = {result["id"]: result["verdict"] for result in results}
    print(json.dumps({k: [v["success"], v["feedback"], v["layers"]] for k, v in told.items()}))


if __name__ == "__main__":
    main()
