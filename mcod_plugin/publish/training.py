"""How a cohort was trained, in words."""
import os.path as osp
import re
from typing import Any, Dict, Iterator, List, Optional, Sequence

from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import PackInputs

from mcod_plugin.alone.data import source_loader
from mcod_plugin.config.data import (innermost_dataset, pipeline_of,
                                     view_pipelines)
from mcod_plugin.config.model_config import preprocessor_config
from mcod_plugin.config.parts import is_part
from mcod_plugin.engine.hooks import DiscontinuousKDHook
from mcod_plugin.runs.record import dose_text
from mcod_plugin.utils.units import duration
from .data_facts import DataFacts, data_facts, data_part, data_split
from .publication import Publication
from .trained_run import TrainedRun

__all__ = ['escape', 'known', 'listed', 'origin_text', 'training_steps']

# By how much a branch is trained more or less than the others.
FACTORS = ('lr_mult', 'decay_mult', 'loss_weight')


def training_steps(publication: Publication) -> List[str]:
    """How a cohort was trained, as the items of a list in Markdown."""
    run, record = publication.run, publication.run.record
    model = run.cfg.model
    batch = record.get('batch_size') or run.cfg.train_dataloader.get(
        'batch_size')
    lines = [
        f'{run.unit}s: {known(run.done)} of {run.planned}, in batches of '
        f'{batch}',
        f'data: {_data_settings(run.cfg, publication.data)}; augmentation: '
        f'{_transforms(run.cfg.train_dataloader)}',
        f'optimizer: {_call(run.cfg.optim_wrapper.get("optimizer"))}, by '
        f'{_optim_wrapper(run.cfg.optim_wrapper)}',
        f'learning rate: {_scheduler(run.cfg.get("param_scheduler"))}',
        f'teacher: {_call(model.get("teacher"))}',
        f'distillation: {_distillation(model)}',
        f'schedule: {_schedule(run)}',
        f'seed: {known(run.seed)}',
    ]
    mixing = _batch_augments(run.cfg)
    if mixing:
        lines.insert(2, f'batch augmentation: {mixing}')
    own = list(_branch_settings(model))
    if own:
        lines.append(f'branches: {listed(own)}')
    changes = '; '.join(_changes(run))
    if changes:
        lines.append(f'changed when the run was resumed: {changes}')
    if 'ema_state_dict' in run.content:
        lines.append('weights: averages over the run, of EMAHook')
    if run.pretrained:
        rest = len(run.pretrained) < len(run.branches)
        lines.append(f'start: {listed(run.pretrained)} from weights that were '
                     f'there before{", all else from random ones" * rest}; '
                     'config.py leaves them out')
    if record.get('seconds'):
        lines.append(f'time: {duration(record["seconds"])} on '
                     f'{record.get("device")}')
    lines.append(f'commit of mcod_plugin: {_commit(record)}')
    lines.append(f'versions: {_versions(run)}')
    return lines


def origin_text(publication: Publication) -> str:
    """Which run a cohort is of, and what published it, in a sentence."""
    run, machine = publication.run, publication.machine
    return (f'This one was trained by {_origin(run)}; published are the '
            f'weights of its `{osp.basename(run.checkpoint)}`, by mcod_plugin '
            f'{machine["versions"]["mcod_plugin"]}, commit '
            f'{_commit(machine)}.')


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence: ``a, b and c``."""
    return ' and '.join([*filter(None, [', '.join(names[:-1])]), names[-1]])


def escape(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r'([\\`*<|$~])', r'\\\1', text)


def known(value: Any) -> str:
    """A value, or that there is none."""
    return 'not recorded' if value is None else str(value)


def _origin(run: TrainedRun) -> str:
    record = run.record
    if 'study' in record:
        return (f'method `{record["method"]}` of the study '
                f'`{record["study"]}`')
    method = f' with method `{record["method"]}`' if 'method' in record else ''
    return f'a config named `{osp.basename(run.cfg.filename)}`{method}'


def _data_settings(cfg: Any, data: DataFacts) -> str:
    """The training data; what is known of the tested ones holds for those of
    the same kind."""
    loader = cfg.train_dataloader
    own, tested = data_facts(loader), data_facts(source_loader(cfg))
    words = [data.name if own == tested else own.name]
    words += filter(None, [data_split(loader)])
    words += [f'{key}={value!r}' for key, value in data_part(loader).items()]
    return escape(', '.join(words))


def _transforms(loader: Any) -> str:
    pipeline = pipeline_of(loader)
    views = view_pipelines(pipeline)
    if views:
        return '; '.join(f'of {name} {_calls(steps)}'
                         for name, steps in views.items())
    anew = ', anew for each branch'
    return _calls(pipeline) + anew * bool(
        innermost_dataset(loader).get('views'))


def _calls(pipeline: Sequence[dict]) -> str:
    calls = [
        _call(transform) for transform in pipeline
        if not is_part(transform, (PackInputs, LoadImageFromFile))
    ]
    return ', '.join(calls) or 'none'


def _call(settings: Optional[Dict[str, Any]]) -> str:
    """Settings as the call that they are."""
    if not settings:
        return 'the default'
    return f'`{_kind(settings, "the default")}({_arguments(settings)})`'


def _kind(settings: Dict[str, Any], default: str) -> str:
    kind = settings.get('type', default)
    return getattr(kind, '__name__', kind)


def _arguments(settings: Dict[str, Any], without: Sequence[str] = ()) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in settings.items()
                     if key not in ('type', '_scope_', *without))


def _batch_augments(cfg: Any) -> str:
    """What is done to whole batches, such as Mixup."""
    settings = preprocessor_config(cfg).get('batch_augments') or {}
    augments = settings.get('augments') or []
    augments = [augments] if isinstance(augments, dict) else augments
    text = ' or '.join(map(_call, augments))
    if settings.get('probs'):
        text += f', probs={settings["probs"]!r}'
    return text


def _optim_wrapper(settings: Dict[str, Any]) -> str:
    inner = _arguments(settings, ['optimizer'])
    return _kind(settings, 'OptimWrapper') + f' with `{inner}`' * bool(inner)


def _branch_settings(model: Dict[str, Any]) -> Iterator[str]:
    """The branches that are trained in a way of their own."""
    default = dict.fromkeys(FACTORS, 1)
    default['loss_weight'] = model.get('loss_weight', 1)
    for name, branch in model['branches'].items():
        factors = {key: branch.get(key, default[key]) for key in FACTORS}
        own = {key: value for key, value in factors.items() if value != 1}
        words = [f'`{_arguments(own)}`'] if own else []
        if branch.get('optimizer'):
            words.append(f'its own optimizer, {_call(branch["optimizer"])}')
        if 'clip_grad' in branch:
            limits = branch['clip_grad']
            words.append(f'`clip_grad={limits!r}`'
                         if limits else 'gradients not clipped')
        if words:
            yield f'{name} with {listed(words)}'


def _scheduler(settings: Any) -> str:
    if not settings:
        return 'constant'
    if isinstance(settings, dict):
        settings = [settings]
    return ', '.join(map(_call, settings))


def _distillation(model: Dict[str, Any]) -> str:
    if model.get('distill', '') is None:
        return 'none'
    return _call(model.get('distill'))


def _schedule(run: Any) -> str:
    """The schedules of the config, and what took effect."""
    if not run.distils:
        return 'never distilled'
    calls = [
        f'`DiscontinuousKDHook({_arguments(hook, ["priority"])})`'
        for hook in run.cfg.get('custom_hooks') or []
        if is_part(hook, DiscontinuousKDHook)
    ]
    return ', '.join([*calls, dose_text(run.distillation)])


def _changes(run: Any) -> Iterator[str]:
    """What was changed when the run was resumed, and took effect."""
    for change in run.record.get('changes') or ():
        if run.done is not None and change[run.unit] >= run.done:
            continue  # The checkpoint is from before.
        settings = [
            f'`{setting["setting"]}` from {setting.get("before")!r} to '
            f'{setting.get("now")!r}' for setting in change['settings']
            if setting['takes_effect']
        ]
        if settings:
            yield f'after {change[run.unit]} {run.unit}s {listed(settings)}'


def _commit(record: Dict[str, Any]) -> str:
    commit = record.get('commit')
    if not commit:
        return 'not recorded'
    return commit[:12] + ' with changes' * bool(record.get('dirty'))


def _versions(run: Any) -> str:
    versions = run.record.get('versions') or {
        'mcod_plugin': run.meta.get('mcod_plugin_version'),
        'mmengine': run.meta.get('mmengine_version')
    }
    return ', '.join(f'{name} {version}' for name, version in versions.items()
                     if version) or 'not recorded'
