"""Existing configs become one cohort."""
import keyword
import os
import os.path as osp
import re
import tempfile
from typing import List, Optional, Sequence

from mmengine.config import Config
from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor

from mcod_plugin.config.branch_from import branch_from, read_source
from mcod_plugin.config.explain import explain
from mcod_plugin.config.input_size import parse_input_size
from mcod_plugin.config.parts import counts_epochs, is_part
from mcod_plugin.config.read import read_config
from mcod_plugin.errors import ConfigError, nearest
from mcod_plugin.models.utils.build_branch import build_branch
from mcod_plugin.models.utils.input_size import guess_input_size
from mcod_plugin.registry import RUNNERS
from mcod_plugin.utils.files import check_out, write_text
from .cohort_text import cohort_text
from .own_settings import table
from .source import Source

__all__ = ['compose']

# What a config must hold for others to be trained by it.
RECIPE = ('train_dataloader', 'train_cfg', 'optim_wrapper')


def compose(configs: Sequence[str],
            out: str,
            names: Optional[Sequence[str]] = None,
            recipe: str = '1',
            force: bool = False) -> str:
    """Write the config of a cohort that inherits the models of some configs
    and the recipe of one of them.

    Every branch is built once before, the cohort and its optimizer
    afterwards, from the file itself: a file that is left can be trained.

    Args:
        configs (Sequence[str]): The configs, see :func:`branch_from`.
        out (str): The file to write.
        names (Sequence[str], optional): The branches' names. Defaults to
            None, which takes them from the configs' names.
        recipe (str): The config whose data, schedule and runtime are
            inherited: its number, from 1, or its branch's name.
            Defaults to ``'1'``.
        force (bool): Whether a file that exists is replaced.
            Defaults to False.

    Returns:
        str: A table of what the configs say differently.

    Raises:
        ConfigError: If no cohort can be made of the configs, or the file
            cannot be written.
    """
    _check_place(out, force)
    names = _branch_names(configs, names)
    chosen = _choose_recipe(recipe, names)
    sources = [
        Source(name, config, read_source(config))
        for name, config in zip(names, configs)
    ]
    _check_inheritance(out, sources)
    recipe = sources[chosen]
    _check_recipe(recipe)
    num_classes = _check_branches(sources)
    _check_classes(sources)
    folder, file = osp.split(osp.abspath(out))
    part = osp.join(folder, f'.{file[:-len(".py")]}_part.py')
    try:
        write_text(part, cohort_text(sources, recipe, out))
        _check_cohort(part)
        os.replace(part, out)
    finally:
        if osp.exists(part):
            os.remove(part)
    return table(sources, recipe, num_classes)


def _check_place(out: str, force: bool) -> None:
    """Raise unless the config can be written."""
    check_out('--out', out)
    stem, extension = osp.splitext(osp.basename(out))
    # MMEngine refuses a second dot.
    if extension != '.py' or '.' in stem:
        raise ConfigError('--out must be the name of a .py file with no other '
                          f'dot; got {out}')
    if osp.exists(out) and not force:
        raise ConfigError(f'--out {out} exists; choose another name, or '
                          'replace it by --force')


def _check_inheritance(out: str, sources: Sequence[Source]) -> None:
    """Raise if the config would replace one that it inherits."""
    for source in sources:
        if osp.realpath(out) in source.files:
            raise ConfigError(
                f'--out {out} is inherited by the cohort, as config '
                f'{source.config} or as a base of it; choose another name')


def _branch_names(configs: Sequence[str],
                  names: Optional[Sequence[str]] = None) -> List[str]:
    """The names of the branches, as they were given.

    Else that of a file up to its batch size, data set and the like, which
    MMPretrain puts behind an underscore and a number, such as
    ``mobilenet_v2`` of ``mobilenet-v2_8xb32_in1k.py``; with a number behind
    it where others have the same.
    """
    if len(configs) < 2:
        raise ConfigError('a cohort has at least two branches; got the config '
                          f'{", ".join(configs) or "of none"} only')
    if names is None:
        names = []
        for config in configs:
            stem = osp.splitext(re.split('/|::', config)[-1])[0]
            stem = re.sub(r'_\d+xb\d+.*', '', stem)
            stem = re.sub(r'\W', '_', stem)
            number = sum(
                re.fullmatch(rf'{stem}(__\d+)?', name) is not None
                for name in names)
            names.append(f'{stem}__{number + 1}' if number else stem)
    if len(names) != len(configs):
        raise ConfigError(f'--names takes one name per config, {len(configs)} '
                          f'in all; got {len(names)}: {", ".join(names)}')
    for name in names:
        if not re.fullmatch('[A-Za-z_][A-Za-z0-9_]*',
                            name) or keyword.iskeyword(name):
            raise ConfigError('the name of a branch must consist of letters, '
                              'digits and _, and not begin with a digit; got '
                              f'{name!r}; choose others by --names')
        if names.count(name) > 1:
            raise ConfigError(f'--names must differ; got {name} twice')
    return list(names)


def _choose_recipe(recipe: str, names: Sequence[str]) -> int:
    """The position, from 0, of the config whose recipe is inherited."""
    if recipe in names:
        return list(names).index(recipe)
    if recipe.isdigit() and 1 <= int(recipe) <= len(names):
        return int(recipe) - 1
    raise ConfigError(
        f'--recipe-from must be a number from 1 to {len(names)} or one of '
        f'{", ".join(names)}; got {recipe}; {nearest(recipe, names)}'.rstrip(
            '; '))


def _check_recipe(recipe: Source) -> None:
    """Raise unless a cohort can be trained as a config says."""
    cfg, other = recipe.cfg, 'choose another by --recipe-from'
    for key in RECIPE:
        if not cfg.get(key):
            raise ConfigError(f'config {recipe.config} lacks {key}, so the '
                              f'cohort cannot be trained by it; {other}')
    if Config._is_lazy_import(cfg.filename):
        raise ConfigError(
            f'config {recipe.config} is of pure Python style (read_base or '
            'imports), which a config with _base_ cannot inherit a recipe '
            f'from; {other}')
    if counts_epochs(cfg.train_cfg) is None:
        raise ConfigError(
            f'config {recipe.config}: train_cfg must count epochs or '
            'iterations, by by_epoch=True or False or by one of the loops of '
            f'MMEngine; {other}')
    if is_part(cfg.optim_wrapper, LearningRateDecayOptimWrapperConstructor,
               'constructor'):
        raise ConfigError(
            f'config {recipe.config}: optim_wrapper.constructor '
            'LearningRateDecayOptimWrapperConstructor sets learning rates by '
            f'the depth of one backbone, and a cohort has several; {other}')


def _check_branches(sources: Sequence[Source]) -> int:
    """Raise unless each config has a classifier that can be a branch, of the
    same number of classes as the others; return it."""
    numbers = {}
    for source in sources:
        where = f'config {source.config}'
        if 'branches' in source.model:
            raise ConfigError(f'{where} is of a cohort already; compose '
                              'configs of single classifiers')
        # The weights are not needed to see whether it fits.
        model = branch_from(source.config)
        size = source.input_size or parse_input_size(
            'input_size', guess_input_size(dict(model=model)))
        channels = len(source.statistics[0])
        try:
            numbers[source.name] = build_branch(source.name, model, size,
                                                channels)[1]
        except ConfigError as error:
            raise ConfigError(f'{where}: {error}') from error
        except Exception as error:
            raise ConfigError(
                f'{where}: {explain(source.cfg, error)}') from error
    if len(set(numbers.values())) > 1:
        given = ', '.join(f'{name} {n}' for name, n in numbers.items())
        raise ConfigError('the classes of all branches must be the same, but '
                          f'num_classes differ: {given}')
    return next(iter(numbers.values()))


def _check_classes(sources: Sequence[Source]) -> None:
    """Raise if data sets are known to have different classes."""
    known = [source for source in sources if source.classes]
    for source in known[1:]:
        if source.classes != known[0].classes:
            first = known[0]
            raise ConfigError(
                'the classes of all branches must be the same, but those of '
                f'{first.dataset_type} ({first.name}: '
                f'{", ".join(first.classes[:3])}...) and '
                f'{source.dataset_type} ({source.name}: '
                f'{", ".join(source.classes[:3])}...) differ')


def _check_cohort(path: str) -> None:
    """Raise unless the runner, the model and the optimizer of a config can be
    built."""
    cfg = read_config(path)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        cfg.experiment_name = osp.basename(folder)
        # Nothing of it is run.
        cfg.log_level = 'ERROR'
        try:
            runner = RUNNERS.build(cfg)
            runner.build_optim_wrapper(cfg.optim_wrapper)
        except Exception as error:
            raise ConfigError('no cohort can be made of these configs: '
                              f'{explain(cfg, error)}') from error
