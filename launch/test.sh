#!/usr/bin/env bash
# Lint, types and tests, in the environment of the quickstart. Arguments go to pytest: launch/test.sh -m slow
# Without any, the late ones and launch/parity.sh come after them.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh test

ruff check .
ruff format --check .
mypy
shellcheck launch/*.sh launch/slurm.sbatch .ci/run
pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
[ $# -eq 0 ] || exit 0
pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m late
exec launch/parity.sh
