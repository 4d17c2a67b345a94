#!/usr/bin/env bash
# Our models beside those of transformers and torch, in .venv-parity. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh parity .venv-parity

export XLA_FLAGS="" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false # compiled as for users; nothing is fetched
exec pytest --numprocesses 2 --dist loadfile --override-ini filterwarnings=default tests/parity "$@"
