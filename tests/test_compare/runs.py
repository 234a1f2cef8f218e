"""Results of runs that never took place."""
import json


def make_run(method='solo', seed=0, top1=(40., 50.), **changes):
    """A run of a cohort of ``a`` and ``b``.

    Args:
        method (str): Its method.
        seed (int): Its seed.
        top1 (tuple[float]): Accuracy of the branches after the last epoch in
            percent; the ensemble has 5 more than the best.
        changes: Other content of the file. None leaves a key out.
    """
    names = [*'abcdef'[:len(top1)], 'ensemble']
    last = {}
    for name, value in zip(names, [*top1, max(top1) + 5]):
        last.update({
            f'{name}/top1': value,
            f'{name}/top5': value + 20,
            f'{name}/ece': value / 10
        })
    last['diversity/disagreement'] = 0.3 + seed / 100
    # The best epoch is the first one.
    curves = {
        key: [value + 1 if key.endswith('top1') else value / 2, value]
        for key, value in last.items()
    }
    run = dict(
        study='small',
        method=method,
        seed=seed,
        config_hash='0',
        branches=names[:-1],
        epochs=2,
        iterations=20,
        batch_size=10,
        train_seconds=60. * (1 + seed),
        seconds=100.,
        device='some CPU',
        threads=1,
        precision='float32',
        versions=dict(torch='9.9', timm=None),
        commit='0123456789',
        dirty=False,
        curves=dict(epoch=[1, 2], **curves),
        kd_weight=[0., 0.5],
        train_loss={name: [2., 1.]
                    for name in names[:-1]},
        last=last,
        best={name: [last[f'{name}/top1'] + 1, 1]
              for name in names})
    run.update(changes)
    return {key: value for key, value in run.items() if value is not None}


def make_results(**methods):
    """Runs by method, from accuracies by seed: ``solo=[(40, 50), ...]``."""
    return {
        method: [
            make_run(method, seed, top1) for seed, top1 in enumerate(values)
            if top1 is not None
        ]
        for method, values in methods.items()
    }


def write_run(folder, run, name=None):
    """Write a result file."""
    name = name or f'{run["method"]}_seed{run["seed"]}.json'
    path = folder / name
    path.write_text(json.dumps(run))
    return path
