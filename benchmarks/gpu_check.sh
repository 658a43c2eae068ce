#!/usr/bin/env bash
# Does everything work on this machine's GPU, and what does a step cost? Under ten minutes, without a network.
#
#   benchmarks/gpu_check.sh [OUT.json]        (default: gpu_check.json)
#
# Random-weight models of the shapes of Qwen2.5-0.5B and Qwen2.5-3B make three steps each of sft, rl_zero and bridge with
# every engine that is installed; a tiny model is trained on the GPU and on the CPU and its losses are compared. Without a
# GPU only the tiny part runs, on the CPU, and the file says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false CUBLAS_WORKSPACE_CONFIG=:4096:8
exec timeout 600 "${PYTHON:-python}" benchmarks/gpu_check.py --out "${1:-gpu_check.json}"
