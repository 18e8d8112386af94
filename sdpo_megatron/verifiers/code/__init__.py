"""Judges programs: HumanEval's asserts, LiveCodeBench's stdin and functional tests.

    verifier, config        the verifier, and its limits
    reading                 the programs that a response can be read as
    asserts                 HumanEval's tests, one by one, public and hidden
    humaneval, livecodebench, outcome       the two layouts, and what both report
    feedback                what a failed attempt is told

May import: sandbox, nouns, errors, verifiers.base.
"""

from .config import CodeVerifierConfig
from .verifier import CodeVerifier

__all__ = ["CodeVerifier", "CodeVerifierConfig"]
