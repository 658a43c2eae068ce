#!/usr/bin/env bash
# Install one kind of environment and the package into /opt/venv:  containers/install.sh KIND TORCH_INDEX
# Called while an image is built, in the root of the repository.
set -euo pipefail

kind=$1 torch_index=$2
pins=envs/$kind.lock
[ -e "$pins" ] || pins=envs/$kind.txt # gpu has no lock: its closure contains CUDA libraries
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv /opt/venv
pip() { /opt/venv/bin/python -m pip "$@"; }
if [ "$kind" != gpu ]; then
    pip install --no-deps --index-url "$torch_index" "$(grep '^torch==' "$pins")"
fi
pip install -r "$pins"
# A wheel, so that the image needs no checkout; the workflow lies in it. What .dockerignore left out is no edit: without this
# the version would call the clone dirty.
if [ -e .git ]; then
    git ls-files --deleted -z | xargs -0 --no-run-if-empty git update-index --skip-worktree
fi
pip install --no-deps --no-build-isolation .
