#!/usr/bin/env bash
# Make a GPU machine without a network ready, from what was copied to it.
#
#     bash benchmarks/gpu/setup.sh [FOLDER]
#
# FOLDER (work_dirs/gpu, when left out) holds
#   wheels/    the wheels of wheels.txt, made by pip wheel
#   cifar100/  CIFAR-100 in parts: the pieces cifar-100-python.tar.gz.* of the
#              official archive, or files with an unpack.py that puts them
#              together, called as unpack.py data
#   repo.git/  where the copy of the working tree has no .git: a bare clone, so
#              that records can tell the commit
# It may be called again at any time, as when further parts have come. What is
# installed lies in FOLDER/site, for PYTHONPATH; the clone is for GIT_DIR, with
# GIT_WORK_TREE besides.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p "${1:-work_dirs/gpu}"
folder=$(cd "${1:-work_dirs/gpu}" && pwd)
site=$folder/site
parts=$folder/cifar100
export PYTHONPATH=$PWD:$site

if [ -d "$folder/repo.git" ] && command -v git > /dev/null; then
    export GIT_DIR=$folder/repo.git GIT_WORK_TREE=$PWD
    # A bare clone has no index, which changes are told by.
    git reset -q
fi

mkdir -p "$site"
if ! ls "$folder/wheels" | cmp -s - "$site/wheels"; then
    python3 -m pip install -q --no-index --no-deps --no-compile \
        --no-cache-dir --upgrade --target "$site" "$folder"/wheels/*.whl
    ls "$folder/wheels" > "$site/wheels"
fi

complete() {
    (cd data/cifar-100-python && md5sum --status -c) <<'MD5' 2> /dev/null
16019d7e3df5f24257cddd939b257f8d  train
f0ef6b0ae62326f3e7ffdfab6717acfc  test
7973b15100ade9c7d40fb424638fde48  meta
MD5
}

mkdir -p data
if ! complete; then
    if [ -f "$parts/unpack.py" ]; then
        python3 "$parts/unpack.py" data > "$parts.log" 2>&1 || true
    else
        cat "$parts"/cifar-100-python.tar.gz.* 2> "$parts.log" |
            tar xzC data 2>> "$parts.log" || true
    fi
fi
complete && cifar='complete' || cifar="not complete: $(tail -n 1 "$parts.log")"

python3 - "$cifar" <<'PYTHON'
import sys
import warnings

warnings.filterwarnings('ignore', message='.*mmcv-lite.*')
import mmengine.optim  # noqa: F401
import mmpretrain.models  # noqa: F401
import torch

import mcod_plugin.compare  # noqa: F401
import mcod_plugin.models  # noqa: F401
from mcod_plugin.utils.machine import describe_machine

machine = describe_machine()
for name, version in machine['versions'].items():
    print(f'{name} {version}')
print('CUDA', torch.version.cuda, 'on', machine['device'])
print('commit', machine['commit'], 'dirty', machine['dirty'])
print('CIFAR-100:', sys.argv[1])
PYTHON
