#!/usr/bin/env bash
# Makes .te: Transformer Engine on a machine without a GPU, as far as its layers can be built there (`make test-te`).
#
# Its torch part is a source archive: it is compiled against the torch of the same lock, with g++ and the headers of the
# nvidia packages; no nvcc run, no driver. Ten minutes of a core, and 6 GB of disk. .te holds this torch and what belongs to
# it; everything else is found in .venv, after it.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=requirements/te.txt
[ ! .te/installed -nt $lock ] || exit 0
command -v g++ >/dev/null || { echo "requirements/install_te.sh: g++ is needed to compile Transformer Engine's torch part" >&2; exit 1; }

started=$SECONDS
say() { printf 'set-up  %3d s  %s\n' $((SECONDS - started)) "$*"; }
pip=(.venv/bin/python -m pip --python .te/bin/python --quiet --quiet --no-input --disable-pip-version-check)
site=.te/lib/python3.11/site-packages

rm -rf .te
.venv/bin/python -m venv --without-pip .te
say "torch for CUDA and its libraries (the largest download)"
"${pip[@]}" install --no-deps --no-compile $(grep == $lock | grep -v '^transformer-engine')
echo "$PWD/.venv/lib/python3.11/site-packages" > $site/packages_of_the_run.pth

say "compiling Transformer Engine's torch part"
include=$PWD/$site/nvidia
export CPATH=$include/cu13/include:$include/cudnn/include:$include/nccl/include
export CUDA_HOME=$include/cu13 NVTE_FRAMEWORK=pytorch NVTE_PYTORCH_FORCE_BUILD=TRUE MAX_JOBS=${MAX_JOBS:-$(nproc)}
PATH=$PWD/.te/bin:$PATH "${pip[@]}" wheel --no-deps --no-build-isolation --wheel-dir .te/wheels \
    "$(grep '^transformer-engine-torch==' $lock)"

say "Transformer Engine"
"${pip[@]}" install --no-deps --no-compile .te/wheels/*.whl $(grep -E '^transformer-engine(-cu13)?==' $lock)
touch .te/installed
say "ready"
