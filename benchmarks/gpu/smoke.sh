#!/usr/bin/env bash
# Everything of the queue once, at tiny size, in some minutes on a GPU.
#
#     bash benchmarks/gpu/smoke.sh
#
# It ends with the accuracies of an unbroken run and of one that was stopped,
# packed, moved and resumed. On a CPU they are equal; on a GPU they need not
# be, whose sums have no order.
set -euo pipefail
cd "$(dirname "$0")/../.."
study=benchmarks/gpu/smoke.py
folder=work_dirs/smoke
step() {
    python3 benchmarks/gpu/step.py "$study" "$@"
}
train() {
    name=$1
    code=0
    shift
    python3 tools/train.py "$@" > "$folder/$name.log" 2>&1 || code=$?
    tail -n 20 "$folder/$name.log"
    return $code
}

rm -rf "$folder"
mkdir -p "$folder"

echo '== speed'
python3 tools/benchmark.py configs/mcod_small_cifar100.py --amp --rounds 1 \
    --seconds 0.1 --only 'step/on' 'runner/*' --out "$folder/speed.json"

echo '== an unbroken run'
step --work-dir "$folder/whole"
mv "$folder/results" "$folder/unbroken"

echo '== stopped, packed'
python3 benchmarks/gpu/step.py "$study" --work-dir "$folder/first" \
    --out "$folder/state" &
pid=$!
until [ -f "$folder/first/smoke/mcod_seed0/epoch_3.pth" ]; do
    kill -0 $pid
    sleep 0.05
done
kill -TERM $pid
wait $pid || true
rm -rf "$folder/first" "$folder/results"
grep begun "$folder/state/status.md"

echo '== moved, resumed'
step --work-dir "$folder/second" --state "$folder/state" --out "$folder/state"
step --state "$folder/state" --results-only

echo '== the families'
train families configs/mcod_alexnet_vgg_resnet_densenet_cifar100.py \
    --amp --work-dir "$folder/families" --cfg-options \
    train_dataloader.dataset.indices=16 val_dataloader.dataset.indices=16 \
    train_cfg.max_epochs=6 train_cfg.val_interval=6 default_hooks.checkpoint.interval=6

if nvidia-smi -L > /dev/null 2>&1; then
    # Graphs are recorded at the second step and replayed from the third on,
    # in training and in validation.
    echo '== CUDA graphs'
    train graphs configs/mcod_small_cifar100.py --amp \
        --work-dir "$folder/graphs" --cfg-options compile.mode=reduce-overhead \
        train_dataloader.dataset.indices=512 val_dataloader.dataset.indices=512 \
        val_dataloader.batch_size=128 train_cfg.max_epochs=4 train_cfg.val_interval=1
fi

python3 - "$folder" <<'PYTHON'
import json
import sys

for name in ('unbroken', 'results'):
    with open(f'{sys.argv[1]}/{name}/mcod_seed0.json') as file:
        record = json.load(file)
    assert record['epochs'] == 20 and record['iterations'] == 20, name
    assert record['curves']['epoch'] == [5, 10, 15, 20], name
    print(f'{name}:', {
        key: round(value, 2)
        for key, value in record['last'].items()
    })
print('Everything works.')
PYTHON
