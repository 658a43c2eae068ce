#!/usr/bin/env bash
# Debian's packages that some tests need:  tests/system_packages.sh [browser] [latex] [slurm]   (all three by default)
#
# Installs what is missing where it can (root and apt-get), and says in one line where it cannot: those tests are then skipped,
# which .ci/run does not allow.
set -euo pipefail

declare -A program=([browser]=chromedriver [latex]=pdflatex [slurm]=slurmctld)
declare -A packages=([browser]="chromium chromium-driver" [latex]="texlive-latex-base texlive-latex-recommended" [slurm]="slurm-wlm munge")

wanted=()
for group in "${@:-browser latex slurm}"; do
    for name in $group; do
        command -v "${program[$name]}" > /dev/null || read -ra more <<< "${packages[$name]}"
        command -v "${program[$name]}" > /dev/null || wanted+=("${more[@]}")
    done
done
[ ${#wanted[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "not installed, and only root can on Debian: ${wanted[*]}; the tests that need them are skipped"
    exit 0
fi
echo "installing ${wanted[*]}"
# Runlevel 1: the packages must not start services of their own.
export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive
{ apt-get update && apt-get install -y --no-install-recommends "${wanted[@]}"; } > /dev/null ||
    echo "apt-get could not install ${wanted[*]}; the tests that need them are skipped"
