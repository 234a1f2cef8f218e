"""What a study compares."""
import os.path as osp
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from mmengine.config import Config

from mcod_plugin.config.methods import find_method
from mcod_plugin.errors import (ConfigError, check_choice, check_integer,
                                nearest, one_line)

__all__ = ['Method', 'Study', 'read_study']

KEYS = ('config', 'amp', 'settings', 'methods', 'seeds', 'baseline',
        'contrasts', 'results', 'report')


@dataclass(frozen=True)
class Method:
    """One of the methods of a study.

    Attributes:
        name (str): Its name in the study.
        fragment (str): Path of the fragment that is merged over the cohort.
        settings (dict[str, Any]): Settings by dotted key, which come last.
    """
    name: str
    fragment: str
    settings: Dict[str, Any]


@dataclass(frozen=True)
class Study:
    """Methods and seeds on one cohort, by one recipe.

    Attributes:
        name (str): The name of the study's file.
        config (str): Path of the cohort's config, recipe and data included.
        amp (bool): Whether to train in mixed precision.
        settings (dict[str, Any]): Settings of all runs by dotted key.
        methods (list[Method]): The methods.
        seeds (list[int]): The seeds of each method.
        baseline (str): The method to which gains refer.
        contrasts (dict[str, list[tuple[str, str]]]): Pairs of methods whose
            difference is asked for, the first against the second, by the
            question that they answer, '' if there is but one. Those of a
            question are one family of tests.
        results (str): The folder of the result files.
        report (str, optional): A Markdown file that the report is put into,
            between ``<!-- study: NAME -->`` and ``<!-- /study: NAME -->``.
            None is a file ``report.md`` beside the results.
    """
    name: str
    config: str
    amp: bool
    settings: Dict[str, Any]
    methods: List[Method]
    seeds: List[int]
    baseline: str
    contrasts: Dict[str, List[Tuple[str, str]]]
    results: str
    report: Optional[str]


def read_study(path: str) -> Study:
    """Read a study's file.

    It is a config of MMEngine. Paths in it are relative to it::

        config = '../../configs/mcod_small_cifar100.py'
        amp = True
        settings = {'train_cfg.max_epochs': 25}
        methods = dict(
            solo='solo',
            mcod='mcod',
            late=dict(
                method='mcod', settings={'custom_hooks.0.begin': 10}))
        seeds = [0, 1, 2]
        baseline = 'solo'  # the first method, when left out
        contrasts = [('mcod', 'solo'), ('late', 'mcod')]  # none, when left out
        results = 'small'  # a folder named as the file, when left out

    Contrasts of several questions are a dict, ``{'late or early': [...]}``.
    A method is the name of a fragment in ``configs/methods``, the path of
    one, or a dict with settings besides.

    Args:
        path (str): The file.

    Returns:
        Study: What it asks for.

    Raises:
        ConfigError: If it cannot be read or asks for what there is not.
    """
    if not osp.isfile(path):
        raise ConfigError(f'study {path}: there is no such file')
    try:
        given = Config.fromfile(path).to_dict()
    except Exception as error:
        # Whatever the file does when it is executed.
        raise ConfigError(f'study {path}: {one_line(error)}') from error
    try:
        return _parse(path, given)
    except ConfigError as error:
        raise ConfigError(f'study {path}: {error}') from error


def _parse(path: str, given: Dict[str, Any]) -> Study:
    for key in given:
        if key not in KEYS:
            hint = nearest(key, KEYS) or f'there are {", ".join(KEYS)}'
            raise ConfigError(f'there is no setting {key}; {hint}')
    for key in ('config', 'methods', 'seeds'):
        if key not in given:
            raise ConfigError(f'it lacks the setting {key}')
    folder = osp.dirname(osp.abspath(path))
    name = osp.splitext(osp.basename(path))[0]
    methods = _methods(given['methods'], folder)
    seeds = given['seeds']
    if not isinstance(seeds, (list, tuple)) or not seeds:
        raise ConfigError('seeds must be a list of at least one integer; got '
                          f'{seeds!r}')
    for index, seed in enumerate(seeds):
        check_integer(f'seeds[{index}]', seed, 0)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f'seeds must differ; got {seeds}')
    amp = given.get('amp', False)
    check_choice('amp', amp, (True, False))
    baseline = given.get('baseline', methods[0].name)
    check_choice('baseline', baseline, [method.name for method in methods])
    report = given.get('report')
    return Study(
        name=name,
        config=_join(folder, 'config', given['config']),
        amp=amp,
        settings=_settings('settings', given.get('settings', {})),
        methods=methods,
        seeds=list(seeds),
        baseline=baseline,
        contrasts=_contrasts(given.get('contrasts', {}), methods),
        results=_join(folder, 'results', given.get('results', name)),
        report=None if report is None else _join(folder, 'report', report))


def _methods(given: Any, folder: str) -> List[Method]:
    if not isinstance(given, dict) or not given:
        raise ConfigError('methods must be a dict that names at least one '
                          f'method; got {given!r}')
    methods = []
    for name, value in given.items():
        if (not isinstance(name, str) or not re.fullmatch(r'[\w.+-]+', name)
                or name.startswith('.')):
            raise ConfigError(
                'a name in methods is part of file names and must consist of '
                f'letters, digits, _, +, . and -; got {name!r}')
        if isinstance(value, str):
            value = dict(method=value)
        if not isinstance(value, dict) or not isinstance(
                value.get('method'), str):
            raise ConfigError(
                f'methods.{name} must be the name or path of a method, or '
                f'dict(method=..., settings=...); got {value!r}')
        for key in value:
            check_choice(f'a setting of methods.{name}', key,
                         ('method', 'settings'))
        fragment = value['method']
        if fragment.endswith('.py'):
            fragment = _join(folder, f'methods.{name}', fragment)
        try:
            fragment = find_method(fragment)
        except ConfigError as error:
            raise ConfigError(f'methods.{name}: {error}') from error
        settings = _settings(f'methods.{name}.settings',
                             value.get('settings', {}))
        methods.append(Method(name, fragment, settings))
    return methods


def _contrasts(given: Any,
               methods: List[Method]) -> Dict[str, List[Tuple[str, str]]]:
    names = [method.name for method in methods]
    if isinstance(given, dict):
        return {
            question: _pairs(f'contrasts.{question}', pairs, names)
            for question, pairs in given.items()
        }
    return {'': _pairs('contrasts', given, names)}


def _pairs(setting: str, given: Any,
           names: List[str]) -> List[Tuple[str, str]]:
    if not isinstance(given, (list, tuple)) or not all(
            isinstance(pair, (list, tuple)) and len(pair) == 2
            for pair in given):
        raise ConfigError(f'{setting} must be a list of pairs of methods; got '
                          f'{given!r}')
    for index, pair in enumerate(given):
        for name in pair:
            check_choice(f'{setting}[{index}]', name, names)
        if pair[0] == pair[1]:
            raise ConfigError(f'{setting}[{index}] must be of two methods; '
                              f'got {pair[0]} twice')
    return [tuple(pair) for pair in given]


def _settings(setting: str, given: Any) -> Dict[str, Any]:
    if not isinstance(given, dict):
        raise ConfigError(f'{setting} must be a dict of settings by dotted '
                          f'key; got {given!r}')
    return given


def _join(folder: str, setting: str, path: Any) -> str:
    if not isinstance(path, str):
        raise ConfigError(f'{setting} must be a path; got {path!r}')
    return osp.relpath(osp.join(folder, path))
