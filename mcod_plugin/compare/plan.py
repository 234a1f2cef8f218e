"""The runs of a study."""
import copy
import hashlib
import json
import os.path as osp
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from typing import Any, Dict, List, Sequence

import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from mcod_plugin.config.explain import explain
from mcod_plugin.config.methods import apply_method
from mcod_plugin.config.model_config import model_config
from mcod_plugin.config.parts import counts_epochs, is_part, metric_configs
from mcod_plugin.config.read import merge_options, merge_settings, read_config
from mcod_plugin.engine.hooks import DiscontinuousKDHook
from mcod_plugin.engine.hooks.discontinuous_kd_hook import whole_schedule
from mcod_plugin.engine.optim_wrapper import use_amp
from mcod_plugin.errors import ConfigError, check_integer
from mcod_plugin.evaluation import BranchMetrics
from mcod_plugin.models.heads import BaseTeacher
from mcod_plugin.models.losses import BaseKDLoss
from mcod_plugin.models.utils.build_part import build_part
from mcod_plugin.registry import HOOKS, MODELS
from .study import Method, Study

__all__ = ['Run', 'choose', 'plan', 'shard']

# What a study's config must hold besides a cohort.
NEEDS = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'val_dataloader',
         'val_evaluator')

# Teacher and loss of the method solo before it had no loss.
OLD_SOLO = dict(
    teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(type='mcod_plugin.DiscontinuousKDLoss', temperature=3.0))
# In a setting: the last checkpoint of another method's run of the same seed.
CHECKPOINT = re.compile(r'\{checkpoint of ([^}]+)\}')


@dataclass(frozen=True)
class Run:
    """One training run of a study.

    Attributes:
        name (str): ``<method>_seed<seed>``.
        method (str): Its method.
        seed (int): Its seed.
        cfg (Config): Its config, complete but for checkpoints of other runs.
        config_hash (str): A hash of that config.
        work_dir (str): Where checkpoints and logs go.
        result (str): The result file.
        needs (list[str]): Names of the runs whose checkpoints it needs.
    """
    name: str
    method: str
    seed: int
    cfg: Config
    config_hash: str
    work_dir: str
    result: str
    needs: List[str]


def plan(study: Study,
         work_dir: str,
         options: Sequence[str] = (),
         build: bool = True) -> List[Run]:
    """The runs of a study, those of the first seed first.

    Runs of one seed begin with the same weights and see the same batches.

    Args:
        study (Study): The study.
        work_dir (str): The folder for the work directories of all runs.
        options (Sequence[str]): Texts ``KEY=VALUE`` that replace settings in
            all runs. Defaults to none.
        build (bool): Whether to build what methods differ in, before hours
            of training. Nothing else needs it. Defaults to True.

    Returns:
        list[Run]: The runs.

    Raises:
        ConfigError: If a method's config cannot be used or built, or methods
            need checkpoints that none can have.
    """
    configs, cohorts = {}, {}
    for method in study.methods:
        try:
            configs[method.name] = _config(study, method, options)
            if build:
                _build(configs[method.name], cohorts)
        except ConfigError as error:
            raise ConfigError(f'methods.{method.name}: {error}') from error
    _check_order(configs)
    return [
        _run(study, method.name, configs[method.name], seed, work_dir)
        for seed in study.seeds for method in study.methods
    ]


def choose(runs: Sequence[Run], patterns: Sequence[str]) -> List[Run]:
    """Those of a study's runs whose names some patterns match, such as
    ``mcod_*``; all without a pattern. Raise if one matches no run."""
    for pattern in patterns:
        if not any(fnmatchcase(run.name, pattern) for run in runs):
            raise ConfigError(f'--only {pattern} matches no run; there are '
                              f'{", ".join(run.name for run in runs)}')
    return [
        run for run in runs if not patterns or any(
            fnmatchcase(run.name, pattern) for pattern in patterns)
    ]


def shard(runs: Sequence[Run], index: int, number: int) -> List[Run]:
    """The share, from 1, of one of several processes that divide a study:
    every ``number``-th run. One that needs the checkpoint of another is in the
    same share."""
    groups = {run.name: frozenset([run.name]) for run in runs}
    for run in runs:
        group = groups[run.name].union(*(groups[name] for name in run.needs
                                         if name in groups))
        groups.update(dict.fromkeys(group, group))
    order = list(dict.fromkeys(groups.values()))
    return [
        run for run in runs
        if order.index(groups[run.name]) % number == index - 1
    ]


def _config(study: Study, method: Method, options: Sequence[str]) -> Config:
    """The config of a method, without seed and work directory."""
    cfg = read_config(study.config)
    if 'branches' not in (cfg.get('model') or {}):
        raise ConfigError(f'config {study.config} is of no cohort: it lacks '
                          'model.branches')
    apply_method(cfg, method.fragment)
    merge_settings(cfg, {**study.settings, **method.settings}, 'settings')
    merge_options(cfg, options)
    for name in NEEDS:
        if cfg.get(name) is None:
            raise ConfigError(f'config {study.config} lacks the setting '
                              f'{name}')
    by_epoch = counts_epochs(cfg.train_cfg)
    if by_epoch is None:
        raise ConfigError('train_cfg.by_epoch must be True or False; got '
                          f'{cfg.train_cfg.get("by_epoch")!r}')
    length = 'max_epochs' if by_epoch else 'max_iters'
    check_integer(f'train_cfg.{length}', cfg.train_cfg.get(length))
    _check_evaluator(cfg.val_evaluator)
    if study.amp:
        use_amp(cfg)
    # To go on from. It is the end that counts, so the best is not kept.
    checkpoint = dict(
        type='mcod_plugin.BranchCheckpointHook',
        interval=max(1, cfg.train_cfg[length] // 20),
        max_keep_ckpts=2,
        save_best=[])
    if not by_epoch:
        checkpoint['by_epoch'] = False
    cfg.default_hooks = dict(
        cfg.get('default_hooks') or {}, checkpoint=checkpoint)
    return cfg


def _check_evaluator(evaluator: Any) -> None:
    """Raise unless a validation gives the accuracies that are compared."""
    for metric in metric_configs(evaluator):
        if is_part(metric, BranchMetrics):
            topk = metric.get('topk')
            topk = 1 if topk is None else topk
            if 1 in (topk if isinstance(topk, (list, tuple)) else [topk]):
                return
    raise ConfigError('val_evaluator must have a mcod_plugin.BranchMetrics '
                      'with 1 in its topk; got '
                      f'{json.dumps(evaluator, default=repr)}')


def _build(cfg: Config, cohorts: Dict[str, nn.Module]) -> None:
    """Build teacher, distillation loss and hooks of a method, and each cohort
    once."""
    if _needs(cfg):
        return  # Its checkpoints are still to be trained.
    cfg = copy.deepcopy(cfg)
    try:
        if cfg.get('custom_imports'):
            import_modules_from_strings(**cfg.custom_imports)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        model = model_config(cfg)
        own = {key: model.get(key) for key in ('teacher', 'distill')}
        cohort = json.dumps({**_as_json(model), **dict.fromkeys(own)})
        if cohort not in cohorts:
            cohorts[cohort] = MODELS.build(model)
        if cohorts[cohort].multi_label:
            raise ConfigError('a study compares top-1 accuracy, which images '
                              'of several labels do not have')
        for key, base in dict(teacher=BaseTeacher, distill=BaseKDLoss).items():
            if own[key]:
                part = build_part(f'model.{key}', own[key], base)
                if base is BaseTeacher or not part.needs_feats:
                    part.setup(
                        list(cohorts[cohort].branches),
                        cohorts[cohort].num_classes)
        for hook in cfg.get('custom_hooks') or ():
            HOOKS.build(hook)
    except Exception as error:
        raise explain(cfg, error) from error


def _check_order(configs: Dict[str, Config]) -> None:
    """Raise unless the methods have an order in which each finds the
    checkpoints that it needs."""
    needs = {method: _needs(cfg) for method, cfg in configs.items()}
    for method, names in needs.items():
        for name in names:
            if name not in configs:
                raise ConfigError(
                    f'methods.{method}: {{checkpoint of {name}}} is of no '
                    f'method of the study; it has {", ".join(configs)}')
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = ' needs that of '.join(reversed(error.args[1]))
        raise ConfigError('methods must not wait for the checkpoints of each '
                          f'other in a circle: {circle}') from error


def _needs(cfg: Config) -> List[str]:
    """The methods whose checkpoints a config names."""
    return sorted(set(CHECKPOINT.findall(json.dumps(_as_json(cfg)))))


def _as_json(cfg: Any) -> Dict[str, Any]:
    return json.loads(json.dumps(cfg.to_dict(), default=repr))


def _told_by(cfg: Config) -> Dict[str, Any]:
    """What tells a run's config from others.

    A solo cohort without distillation loss counts as it was written when it
    had one, at the weight 0: both train the same, and the results of such
    runs are theirs. A schedule whose weight is left out counts as the one that
    it gets.
    """
    told = _as_json(cfg)
    model = told['model']
    weights = []
    for hook, told_hook in zip(
            cfg.get('custom_hooks') or (), told.get('custom_hooks') or ()):
        if is_part(hook, DiscontinuousKDHook):
            if hook.get('weight') is None:
                # What is left out may be something else in another version.
                told_hook.update(_as_json(Config(whole_schedule(hook))))
            weights.append(told_hook['weight'])
    if (model.get('teacher') == OLD_SOLO['teacher']
            and model.get('distill', '') is None and weights
            and all(weight == [0, 0] for weight in weights)):
        model['distill'] = OLD_SOLO['distill']
    return told


def _run(study: Study, method: str, cfg: Config, seed: int,
         work_dir: str) -> Run:
    cfg = copy.deepcopy(cfg)
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    text = json.dumps(_told_by(cfg), sort_keys=True)
    config_hash = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f'{method}_seed{seed}'
    result = osp.join(study.results, f'{name}.json')
    record = dict(
        type='mcod_plugin.RunRecordHook',
        out=osp.abspath(result),
        info=dict(
            study=study.name,
            method=method,
            seed=seed,
            config_hash=config_hash))
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or ()), record]
    return Run(
        name=name,
        method=method,
        seed=seed,
        cfg=cfg,
        config_hash=config_hash,
        work_dir=osp.join(work_dir, study.name, name),
        result=result,
        needs=[f'{needed}_seed{seed}' for needed in _needs(cfg)])
