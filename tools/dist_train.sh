#!/usr/bin/env bash
# tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF tools/train.py]
# Of several machines each runs it, with NNODES, NODE_RANK, MASTER_ADDR set.
set -euo pipefail
CONFIG=$1
GPUS=$2

exec torchrun \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
