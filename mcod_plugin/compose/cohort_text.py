"""The text of a cohort's config."""
import os.path as osp
import textwrap
from typing import Any, Iterator, List, Sequence

from mmcv.transforms import RandomFlip
from mmpretrain.datasets import PackInputs, RandomCrop
from mmpretrain.evaluation import Accuracy

from mcod_plugin.config.data import dataset_layers
from mcod_plugin.config.parts import (counts_epochs, is_part, metric_configs,
                                      type_name)
from mcod_plugin.config.read import LOADERS, imported_modules
from mcod_plugin.datasets.in_memory_dataset import (FIXED_TRANSFORMS,
                                                    InMemoryDataset)
from .own_settings import left_out, own_settings
from .source import Source, call_text

__all__ = ['cohort_text']

WIDTH = 79
# What InMemoryDataset can do to images.
IN_MEMORY = (*FIXED_TRANSFORMS, RandomCrop, RandomFlip, PackInputs)
# The hooks of the cohort's runtime: what they do, and their settings.
HOOKS = dict(
    runtime_info=('The losses stay on the device until they are logged.',
                  "type='mcod_plugin.CohortRuntimeInfoHook'"),
    checkpoint=('The last two{steps}, and the best of every branch and of '
                'the ensemble.', "type='mcod_plugin.BranchCheckpointHook', "
                '{interval}, max_keep_ckpts=2'),
    epoch_seed=('Exact resuming.', "type='mcod_plugin.EpochSeedHook'"),
    label_check=('', "type='mcod_plugin.LabelCheckHook'"),
    report=('The cohort at the start, its accuracy at the end.',
            "type='mcod_plugin.CohortReportHook'"))


def cohort_text(sources: Sequence[Source], recipe: Source, out: str) -> str:
    """Write the config of a cohort that inherits those of its branches. Data,
    schedule and runtime are those of the recipe, and paths are relative to the
    folder of ``out``, the file that it is for."""
    from yapf.yapflib.yapf_api import FormatCode
    parts = [
        _docstring(sources, recipe, out),
        _base(recipe, out),
        _model(sources, recipe, out),
        _hooks(recipe),
        _runtime(sources, recipe),
        _evaluation(recipe),
        _in_memory_hint(recipe),
    ]
    text = '\n'.join(line for part in parts for line in part)
    style = dict(
        based_on_style='pep8',
        blank_line_before_nested_class_or_def=True,
        split_before_expression_after_opening_paren=True)
    return FormatCode(text, style_config=style)[0].rstrip() + '\n'


def _docstring(sources: Sequence[Source], recipe: Source,
               out: str) -> Iterator[str]:
    names = [source.name for source in sources]
    yield from _wrapped(
        f'{", ".join(names[:-1])} and {names[-1]} together, MCOD-style.',
        first='"""')
    yield ''
    yield f'    python tools/train.py {osp.basename(out)}'
    yield ''
    yield from _wrapped(
        f'Trained by the recipe of {recipe.name}: its data, batch '
        'augmentations, optimizer, schedule and runtime are inherited. Each '
        'branch alone by the same recipe (distillation never on): '
        '``--method solo``.')
    lost = left_out(sources, recipe)
    if lost:
        yield ''
        yield 'Of the other configs this is not taken over:'
        for name, settings in lost.items():
            yield ''
            yield f'{name}:'
            for setting, text in settings.items():
                # What would end the string, or be no character of its own.
                text = text.replace('\\', r'\\').replace('"""', r'\"\"\"')
                yield from _wrapped(
                    f'{setting}: {text or "none"}', first='- ', rest='  ')
    yield '"""'


def _base(recipe: Source, out: str) -> Iterator[str]:
    yield f'_base_ = {_place(recipe, out, in_base=True)!r}'
    batch = recipe.batch_size
    if batch and recipe.total_batch and batch != recipe.total_batch:
        yield ''
        yield from _comment(
            f'The learning rate is for batches of {recipe.total_batch} in '
            f'all; each process takes {batch}. For fewer processes set '
            'train_dataloader.batch_size, or scale the rate by '
            '--auto-scale-lr.')
    yield ''
    yield '# MMEngine takes a config for another kind if an import comes'
    yield '# before _base_.'
    yield 'from mcod_plugin.compose import branch_from  # noqa: E402'
    yield ''


def _model(sources: Sequence[Source], recipe: Source,
           out: str) -> Iterator[str]:
    yield 'model = dict('
    yield '    _delete_=True,'
    yield "    type='mcod_plugin.MultiBackboneClassifier',"
    yield '    branches=dict('
    for number, source in enumerate(sources, 1):
        yield f'{source.name}=branch_from('
        # A comma at the end would spread it over several lines.
        yield f'{_place(source, out)!r}'
        for key, (value, reason) in own_settings(source, recipe).items():
            yield ','
            if reason:
                yield from _comment(_sentence(reason), 16)
            yield f'{key}={_code(value)}'
        yield '),' if number < len(sources) else ')),'
    # They may stand in the model as well; what stands at the top is inherited.
    if recipe.model.get('data_preprocessor'):
        yield 'data_preprocessor=_base_.model.data_preprocessor,'
    if recipe.model.get('train_cfg'):
        names = ', '.join(map(call_text, recipe.batch_augments))
        yield from _comment(f'{names}, the same for all branches.', 4)
        yield 'train_cfg=_base_.model.train_cfg,'
    yield "teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion='mean'),"
    yield ("distill=dict(type='mcod_plugin.DiscontinuousKDLoss', "
           'temperature=3.0))')
    yield ''


def _hooks(recipe: Source) -> Iterator[str]:
    by_epoch = counts_epochs(recipe.cfg.train_cfg)
    yield from _comment(
        'When and how strongly the ensemble teaches: one epoch on, then a '
        'gap. In the first half of the run the gap shrinks from one epoch to '
        'none, and the weight grows from 0 to 1.' + ' Where training counts '
        'iterations, an epoch is one pass over the data.' * (not by_epoch))
    yield 'custom_hooks = [dict('
    yield "    type='mcod_plugin.DiscontinuousKDHook',"
    yield ('    on=1, gap=(1, 0), weight=(0.0, 1.0), '
           "curve='linear', ramp=0.5,")
    yield '    begin=0, end=None, by_epoch=True),'
    if recipe.cfg.get('custom_hooks'):
        yield f'# those of {recipe.name}'
        yield '    *_base_.custom_hooks,'
    yield ']'
    yield ''


def _runtime(sources: Sequence[Source], recipe: Source) -> Iterator[str]:
    cfg = recipe.cfg
    if cfg.get('default_scope') is None:
        yield '# Names without a prefix are those of MMPretrain.'
        yield "default_scope = 'mmpretrain'"
    yield "runner_type = 'mcod_plugin.CohortRunner'"
    modules = {}
    for source in sources:
        modules.update(dict.fromkeys(imported_modules(source.cfg)))
    modules['mcod_plugin'] = None
    yield (f'custom_imports = dict(imports={list(modules)!r}, '
           'allow_failed_imports=False)')
    given = cfg.get('default_hooks') or {}
    step = dict(steps=' epochs', interval='interval=1')
    if not counts_epochs(cfg.train_cfg):
        # As often as there is a validation, which is every 1000 iterations
        # unless it is said.
        interval = cfg.train_cfg.get('val_interval', 1000)
        step = dict(
            steps='', interval=f'by_epoch=False, interval={interval}')
    yield 'default_hooks = dict('
    for name, (comment, settings) in HOOKS.items():
        if comment:
            yield from _comment(comment.format(**step), 4)
        mark = '_delete_=True, ' if name in given else ''
        yield f'{name}=dict({mark}{settings.format(**step)}),'
    yield ')'
    if (cfg.get('randomness') or {}).get('seed') is None:
        yield 'randomness = dict(seed=0)'
    if cfg.get('load_from'):
        yield f'# It is of {recipe.name} alone, see above.'
        yield 'load_from = None'
    yield ''


def _evaluation(recipe: Source) -> Iterator[str]:
    """The recipe's metrics, by branch."""
    written = {}
    for name in ('val_evaluator', 'test_evaluator'):
        metrics = metric_configs(recipe.cfg.get(name))
        if not metrics:
            continue
        settings = _by_branch(metrics)
        if settings in written:
            yield f'{name} = {written[settings]}'
            continue
        written[settings] = name
        yield from _comment('By branch and for the ensemble: '
                            f'{", ".join(map(type_name, metrics))}.')
        yield f'{name} = dict(_delete_=True, {settings})'
    if written:
        yield ''


def _by_branch(metrics: Sequence[dict]) -> str:
    """The settings of the metric that gives others for each branch."""
    settings = "type='mcod_plugin.BranchMetrics'"
    numbers, kept = [], []
    for metric in metrics:
        if is_part(metric, Accuracy) and set(metric) <= {'type', 'topk'}:
            topk = metric.get('topk', 1)
            numbers += [topk] if isinstance(topk, int) else topk
        else:
            kept.append(_code(metric))
    if numbers:
        settings += f', topk={tuple(numbers)!r}'
    if kept:
        found = kept[0] if len(kept) == 1 else f'[{", ".join(kept)}]'
        settings += f', metric={found}'
    return settings


def _in_memory_hint(recipe: Source) -> Iterator[str]:
    """How to keep the data in memory, where that can be done."""
    loaders = [name for name in LOADERS if recipe.cfg.get(name)]
    kinds = set()
    for name in loaders:
        dataset = next(dataset_layers(recipe.cfg[name].get('dataset')), {})
        kinds.add(type_name(dataset))
        steps = dataset.get('pipeline')
        if steps is None or not all(
                is_part(step, IN_MEMORY) for step in steps):
            return
    if len(kinds) != 1 or is_part(dataset, InMemoryDataset):
        return
    yield from _comment(
        'If all images fit into memory, this serves them by the batch, which '
        'is faster:')
    for name in loaders:
        yield f'# {name} = dict(dataset=dict('
        yield "#     type='mcod_plugin.InMemoryDataset', "\
            f'source={recipe.dataset["type"]!r}))'


def _place(source: Source, out: str, in_base: bool = False) -> str:
    """Where a config is, seen from the folder of another."""
    if '::' in source.config:
        return source.config
    folder = osp.dirname(osp.abspath(out))
    path = osp.relpath(osp.abspath(source.config), folder)
    path = path.replace(osp.sep, '/')
    return path if in_base else f'{{{{ fileDirname }}}}/{path}'


def _code(value: Any) -> str:
    if isinstance(value, dict):
        settings = ', '.join(f'{key}={child!r}'
                             for key, child in value.items())
        return f'dict({settings})'
    return repr(value)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + '.'


def _comment(text: str, indent: int = 0) -> List[str]:
    return _wrapped(text, '# ', '# ', indent)


def _wrapped(text: str,
             first: str = '',
             rest: str = '',
             indent: int = 0) -> List[str]:
    """Lines of at most 79 columns, with room for an indent."""
    return textwrap.wrap(
        text,
        WIDTH - indent,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False)
