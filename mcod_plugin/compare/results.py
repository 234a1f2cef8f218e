"""The results of a study's runs, from their files."""
import math
import os
import os.path as osp
import re
import reprlib
from collections import Counter
from numbers import Real
from typing import (Any, Callable, Dict, Iterator, List, Mapping, Optional,
                    Sequence)

from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.runs.metrics import ENSEMBLE, best_top1
from mcod_plugin.runs.record import read_record

__all__ = [
    'read_results', 'all_runs', 'differences', 'divergence',
    'of_other_configs', 'trained_branches', 'frozen_branches', 'last', 'best',
    'kd_ratios', 'length', 'steps', 'unit'
]

Record = Dict[str, Any]
Results = Dict[str, List[Record]]

KINDS = dict(
    method=str,
    seed=int,
    branches=list,
    batch_size=int,
    device=str,
    precision=str,
    versions=dict,
    train_seconds=Real,
    curves=dict,
    kd_weight=list,
    train_loss=dict,
    last=dict)

# What must be the same for runs that are compared, in words.
COMPARED: Dict[str, Callable[[Record], str]] = {
    'branches': lambda run: ', '.join(run['branches']),
    'unit': lambda run: f'{unit(run)}s',
}
# For those of a method.
COMPARED_SEEDS: Dict[str, Callable[[Record], str]] = {
    'length': lambda run: f'{length(run)} {unit(run)}s',
}

# What may differ between runs that are compared, but has to be told.
NOTED: Dict[str, Callable[[Record], Any]] = {
    # A network alone may be given the time of a cohort.
    'length': COMPARED_SEEDS['length'],
    'batch size': lambda run: run['batch_size'],
    'precision': lambda run: run['precision'],
    'device': lambda run: run['device'],
    'torch version': lambda run: run['versions'].get('torch'),
}


def read_results(folder: str,
                 methods: Sequence[str],
                 seeds: Optional[Sequence[int]] = None) -> Results:
    """Read the result files ``<method>_seed<k>.json`` of a study from a
    folder, which need not exist yet: the runs of some seeds, by default of
    all, by method in the order given and then by seed. Files of other methods
    are left alone.

    Raise if a file cannot be used, or two runs differ in their branches or
    their unit, or two of a method in their length, so that nothing can be
    learned from comparing them.
    """
    found: Results = {method: [] for method in methods}
    names = sorted(os.listdir(folder)) if osp.isdir(folder) else []
    for name in names:
        match = re.fullmatch(r'(.+)_seed(\d+)\.json', name)
        if match is None or match[1] not in found:
            continue
        if seeds is None or int(match[2]) in seeds:
            run = _read(osp.join(folder, name), match[1], int(match[2]))
            found[match[1]].append(run)
    for runs in found.values():
        runs.sort(key=lambda run: run['seed'])
    _check_comparable(all_runs(found), COMPARED)
    for runs in found.values():
        _check_comparable(runs, COMPARED_SEEDS)
    return found


def all_runs(results: Results) -> List[Record]:
    """All runs in one list, method by method."""
    return [run for runs in results.values() for run in runs]


def differences(results: Results) -> List[str]:
    """A sentence for each of length, batch size, precision, device and
    version of torch that is not the same for all runs, since it may change
    results."""
    notes = []
    for what, value_of in NOTED.items():
        values = {_name(run): value_of(run) for run in all_runs(results)}
        ranking = Counter(values.values()).most_common()
        if len(ranking) > 1:
            usual = ranking[0][0]
            others = ', '.join(f'{value} in {name}'
                               for name, value in values.items()
                               if value != usual)
            notes.append(f'The {what} is not the same for all runs: {usual}, '
                         f'but {others}.')
    return notes


def divergence(run: Record) -> Optional[str]:
    """What has diverged in a run: a branch by the run's own record, else a
    loss or a metric of the last validation that is not finite. None if nothing
    has."""
    # To MMEngine a run in iterations is one epoch.
    by_epoch = unit(run) == 'epoch'
    told = [
        f'{name} diverged in ' + f'epoch {when["epoch"]}, ' * by_epoch +
        f'iteration {when["iteration"]}'
        for name, when in (run.get('diverged') or {}).items()
    ]
    if told:
        return ', '.join(told)
    for name, values in run['train_loss'].items():
        for step, value in zip(steps(run, len(values)), values):
            if not math.isfinite(value):
                return (f'the loss of {name} is {value} '
                        f'{"in" if by_epoch else "up to"} {unit(run)} {step}')
    for key, value in run['last'].items():
        if not math.isfinite(value):
            return f'{key} is {value}'
    return None


def unit(run: Record) -> str:
    """What a run counts in, ``'epoch'`` or ``'iteration'``."""
    # Runs of older versions do not say.
    return run.get('unit') or 'epoch'


def length(run: Record) -> int:
    """How many epochs or iterations a run has."""
    return run[f'{unit(run)}s']


def steps(run: Record, number: int) -> List[int]:
    """How many epochs or iterations were over at each of the first ``number``
    values that were noted in the course of a run."""
    if unit(run) == 'epoch':
        return [*range(1, number + 1)]
    return run['until'][:number]


def of_other_configs(results: Results, hashes: Mapping[str, str]) -> List[str]:
    """The names of the runs that were made by another config than they are to
    have, by the hashes of those."""
    return [
        _name(run) for run in all_runs(results)
        if run.get('config_hash') != hashes.get(_name(run))
    ]


def trained_branches(runs: Sequence[Record]) -> List[str]:
    """The branches that a method trains, by its runs: those with a training
    loss, in the order of the cohort. A frozen teacher has none."""
    return [
        name for name in (runs[0]['branches'] if runs else ())
        if all(run['train_loss'].get(name) for run in runs)
    ]


def frozen_branches(runs: Sequence[Record]) -> List[str]:
    """The branches that only teach; see :func:`trained_branches`."""
    trained = trained_branches(runs)
    return [
        name for name in (runs[0]['branches'] if runs else ())
        if name not in trained
    ]


def last(runs: Sequence[Record], *keys: str) -> Dict[int, float]:
    """The mean of some metrics, such as ``resnet/top1``, in the last
    validation of a method's runs, by seed. Runs that lack one are left out."""
    return _means(runs, keys, lambda run, key: run['last'].get(key))


def best(runs: Sequence[Record], *names: str) -> Dict[int, float]:
    """The mean of the best top-1 accuracies of all epochs of some branches, or
    of ``ensemble``, in percent, by seed of a method's runs."""
    return _means(
        runs, names,
        lambda run, name: best_top1(run['curves']).get(name, [None])[0])


def kd_ratios(run: Record, name: str) -> Dict[int, float]:
    """How hard the distillation pulled at a branch, against its own loss:
    ``kd_ratio`` by the number of epochs (or iterations) finished, of those
    that distilled; empty if it was not measured."""
    course = run.get('kd_ratio', {}).get(name, [])
    return {
        step: ratio
        for step, ratio in zip(steps(run, len(course)), course)
        if ratio > 0 and math.isfinite(ratio)
    }


def _means(
        runs: Sequence[Record], keys: Sequence[str],
        value_of: Callable[[Record, str],
                           Optional[float]]) -> Dict[int, float]:
    means = {}
    for run in runs:
        values = [value_of(run, key) for key in keys]
        if values and None not in values:
            means[run['seed']] = math.fsum(values) / len(values)
    return means


def _name(run: Record) -> str:
    return f'{run["method"]}_seed{run["seed"]}'


def _read(path: str, method: str, seed: int) -> Record:
    """Read and check one file."""
    try:
        run = read_record(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f'{path} is no result file, which is JSON: '
                          f'{one_line(error)}') from error
    fault = next(_faults(run), None)
    if fault is None and (run['method'], run['seed']) != (method, seed):
        fault = (f'it holds method {run["method"]!r} and seed {run["seed"]}, '
                 'unlike its name')
    if fault is not None:
        raise ConfigError(f'{path} is no result file: {fault}')
    return run


def _faults(run: Any) -> Iterator[str]:
    """What is wrong with the content of a file."""
    for key, kind in KINDS.items():
        yield from _of_kind(run, key, kind)
    if unit(run) not in ('epoch', 'iteration'):
        yield f"'unit' must be epoch or iteration; got {run['unit']!r}"
    for key, kind in {
            f'{unit(run)}s': int,
            **(dict(until=list) if unit(run) == 'iteration' else {})
    }.items():
        yield from _of_kind(run, key, kind)
    if not run['branches'] or not all(
            isinstance(name, str) for name in run['branches']):
        yield ("'branches' must hold names; got "
               f"{reprlib.repr(run['branches'])}")
    if not isinstance(run['versions'].get('torch'), (str, type(None))):
        yield ("'torch' in 'versions' must be a text; got "
               f"{reprlib.repr(run['versions']['torch'])}")
    if not isinstance(run.get('commit'), (str, type(None))):
        yield f"'commit' must be a text; got {reprlib.repr(run['commit'])}"
    if not math.isfinite(run['train_seconds']):
        yield f"'train_seconds' must be finite; got {run['train_seconds']}"
    if unit(run) == 'iteration' and not all(map(_is_number, run['until'])):
        yield ("'until' must be a list of numbers; got "
               f"{reprlib.repr(run['until'])}")
    for key, value in run['last'].items():
        if not _is_number(value):
            yield (f"{key!r} in 'last' must be a number; got "
                   f'{reprlib.repr(value)}')
    for name in (*run['branches'], ENSEMBLE):
        if f'{name}/top1' not in run['last']:
            yield f"'last' lacks '{name}/top1'"
    # Runs of older versions have no ratios.
    ratios = run.get('kd_ratio', {})
    if not isinstance(ratios, dict):
        yield f"'kd_ratio' must be of type dict; got {reprlib.repr(ratios)}"
    for key, values in dict(
            run['curves'],
            kd_weight=run['kd_weight'],
            **{
                f'{key} of {name}': values
                for key, courses in (('train_loss', run['train_loss']),
                                     ('kd_ratio', ratios))
                for name, values in courses.items()
            }).items():
        if not isinstance(values, list) or not all(map(_is_number, values)):
            yield f'{key!r} must be a list of numbers'
    lengths = {key: len(values) for key, values in run['curves'].items()}
    if len(set(lengths.values())) > 1 or (lengths
                                          and unit(run) not in lengths):
        yield (f"'curves' must hold '{unit(run)}' and as many numbers for "
               f'each metric; got {lengths}')
    diverged = run.get('diverged') or {}
    if not isinstance(diverged, dict) or not all(
            isinstance(when, dict) and {'epoch', 'iteration'} <= when.keys()
            for when in diverged.values()):
        yield ("'diverged' must hold 'epoch' and 'iteration' by branch; got "
               f'{reprlib.repr(diverged)}')


def _of_kind(run: Record, key: str, kind: type) -> Iterator[str]:
    if key not in run:
        yield f'{key!r} is missing'
    # A bool is an int to Python.
    if not isinstance(run[key], kind) or isinstance(run[key], bool):
        yield (f'{key!r} must be of type {kind.__name__.lower()}; got '
               f'{reprlib.repr(run[key])}')
    if isinstance(run[key], Real) and not _is_number(run[key]):
        yield f'{key!r} is out of range; got {reprlib.repr(run[key])}'


def _is_number(value: Any) -> bool:
    """Whether it is one that a float can hold, as JSON alone does not
    promise."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_comparable(runs: Sequence[Record],
                      what_of: Dict[str, Callable[[Record], str]]) -> None:
    for run in runs:
        for what, value_of in what_of.items():
            first, value = value_of(runs[0]), value_of(run)
            if value != first:
                raise ConfigError(f'{_name(runs[0])} and {_name(run)} cannot '
                                  f'be compared: {what} {first} and {value}')
