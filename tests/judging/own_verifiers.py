"""Verifiers that misbehave on purpose, for the tests of what runs them. Found by import path."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import graded


class Obeys:
    """Does what the response says."""

    name = "obeys"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        match response.split():
            case ["spin"]:
                return graded(bool(10 ** (10**9)))  # one C call that takes minutes
            case ["grow"]:
                return graded(bool(bytearray(2**36)))
            case ["sleep", seconds]:
                time.sleep(float(seconds))
            case ["wait-for", path]:
                while not Path(path).exists():
                    time.sleep(0.01)
            case ["begin-and-wait", begun, go]:
                Path(begun).touch()
                while not Path(go).exists():
                    time.sleep(0.01)
            case ["die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case ["die-once", path]:
                if not Path(path).exists():
                    Path(path).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            case ["raise"]:
                raise RuntimeError("no such luck")
            case ["reward", number]:
                return graded(False, reward=float(number))
            case ["details"]:
                return graded(False, unfit=object())
            case ["long"]:
                return graded(True, text="x" * (17 * 2**20))
            case ["nothing"]:
                return None  # type: ignore[return-value]
            case ["print"]:
                print("this must not reach the pipe of the replies")
        return graded(response == item.get("answer", response), pid=os.getpid())
