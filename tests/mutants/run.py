"""Apply each mutant to a copy of the tree and show that its test fails: `make test-mutants`.

Every test named in the table first has to pass on the copy as it is; a mutant is killed when pytest
then says that a test failed (exit code 1), not when it could not run. With words as arguments only
the mutants whose name holds all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.table import MUTANTS, Mutant

REPOSITORY = Path(__file__).parent.parent.parent
PASSED, FAILED = 0, 1


def main(words: Sequence[str]) -> int:
    """0 when every chosen mutant was killed."""
    chosen = [m for m in MUTANTS if all(word in m.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        for test in dict.fromkeys(mutant.killed_by for mutant in chosen):
            code, output = run_test(tree, test)
            if code != PASSED:
                print(f"{test} does not pass before anything is changed:\n{output}")
                return 2
        survivors = [mutant for mutant in chosen if not is_killed(tree, mutant)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants were killed")
    return 1 if survivors or not chosen else 0


def copy_tree(target: Path) -> None:
    """The files that git knows, and new ones that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (source := REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def is_killed(tree: Path, mutant: Mutant) -> bool:
    """Apply the mutant, run its test, take the mutant back; says what came of it."""
    file = tree / mutant.file
    whole = file.read_text()
    if whole.count(mutant.text) != 1:
        print(f"ROTTEN    {mutant.name}: its text occurs {whole.count(mutant.text)} times")
        return False
    file.write_text(whole.replace(mutant.text, mutant.instead))
    start = time.monotonic()
    try:
        code, output = run_test(tree, mutant.killed_by)
    finally:
        file.write_text(whole)
    word = {PASSED: "SURVIVED", FAILED: "killed"}.get(code, f"pytest said {code}")
    print(f"{word:9} {mutant.name}  ({time.monotonic() - start:.0f} s)", flush=True)
    if code not in (PASSED, FAILED):
        print(output)
    return code == FAILED


def run_test(tree: Path, test: str) -> tuple[int, str]:
    """(pytest's exit code, the end of its output)."""
    # No compiled files: two versions of a file may have the same second and size.
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test],
        cwd=tree, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout[-4000:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
