#!/usr/bin/env bash
# Makes .venv and installs what is pinned: `requirements/install.sh cpu` for a run, `... dev` for tests and checks too,
# `... verifier` for verifiers alone.
#
# A second call finds the stamp of the same lock and returns at once. pip's own configuration (index, find-links,
# certificates) is honoured as it is; nothing here names a source.
set -euo pipefail
cd "$(dirname "$0")/.."

want=${1:-cpu}
case $want in
    cpu | verifier) locks=("$want") ;;
    dev) locks=(cpu dev) ;;
    *) echo "requirements/install.sh: got '$want', expected cpu, dev or verifier" >&2; exit 2 ;;
esac

venv=.venv
started=$SECONDS
say() { printf 'set-up  %3d s  %s\n' $((SECONDS - started)) "$*"; }

# The stamp is keyed on the lock, on pyproject.toml (entry points) and on the checkout's place (the editable install).
stamp_of() { echo "$venv/.installed-$1-$( (pwd; cat "requirements/$1.txt" pyproject.toml) | sha256sum | cut -c1-16)"; }

find_python() {
    local candidate
    # Every one on the PATH, not only the first: a version manager's shim may stand before the system's.
    for candidate in "${PYTHON:-python3.11}" $(type -ap python3.11 python3 python); do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    cat >&2 <<'MESSAGE'
No usable Python 3.11 found (tried $PYTHON and every python3.11, python3, python on the PATH).
The lock is for 3.11: megatron-core 0.16.1 and the pinned wheels were seen working together there.
  Debian, Ubuntu:  apt-get install python3.11 python3.11-venv
  pyenv:           pyenv install 3.11
or name one:       make setup PYTHON=/path/to/python3.11
MESSAGE
    exit 1
}

complete=yes
for lock in "${locks[@]}"; do [ -e "$(stamp_of "$lock")" ] || complete=no; done
[ $complete = no ] || exit 0

if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi
# Bytecode is made for what is imported only. pip speaks when something is wrong, not before.
install=("$venv/bin/python" -m pip install --quiet --quiet --no-input --no-compile --disable-pip-version-check)

for lock in "${locks[@]}"; do
    stamp=$(stamp_of "$lock")
    [ ! -e "$stamp" ] || continue
    pin() { grep -E "^$1==" "requirements/$lock.txt"; }
    # A few are source archives: they are built with the pinned setuptools instead of a downloaded one.
    [ "$lock" = dev ] || "${install[@]}" "$(pin setuptools)"
    if [ "$lock" = cpu ]; then
        say "torch (the largest download)"
        # With dependencies: the CUDA build of torch is useless without the libraries that it names.
        "${install[@]}" -c requirements/cpu.txt "$(pin torch)"
    fi
    say "$(grep -c == "requirements/$lock.txt") packages of requirements/$lock.txt"
    "${install[@]}" --no-deps --no-build-isolation -r "requirements/$lock.txt"
    if [ "$lock" != dev ]; then
        "${install[@]}" --no-deps --no-build-isolation -e .
    fi
    rm -f "$venv/.installed-$lock-"*
    touch "$stamp"
done
say "ready"
