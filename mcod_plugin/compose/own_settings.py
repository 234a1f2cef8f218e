"""What a branch keeps of its own recipe in another one's, and what not."""
from itertools import chain
from typing import Any, Dict, NamedTuple, Sequence

from mcod_plugin.config.parts import type_name
from mcod_plugin.runs.tables import render
from .source import Source, call_text

__all__ = ['KEPT_BY', 'OwnSetting', 'left_out', 'own_settings', 'table']

# The facts of a config that each setting of a branch keeps.
KEPT_BY = {
    'mean': ['normalisation'],
    'std': ['normalisation'],
    'input_size': ['input size'],
    'lr_mult': ['learning rate'],
    'decay_mult': ['weight decay'],
    'optimizer': ['optimizer', 'learning rate', 'weight decay'],
    'clip_grad': ['clip_grad'],
    'init_cfg': ['pre-trained weights']
}


class OwnSetting(NamedTuple):
    """A setting of a branch."""
    value: Any
    reason: str  # in words, or empty


def own_settings(source: Source, recipe: Source) -> Dict[str, OwnSetting]:
    r"""The settings by which a branch keeps what its own config says, by name,
    those that differ from the recipe only.

    A learning rate is meant for a batch size. If both configs tell theirs,
    that of the branch is scaled to the recipe's, in proportion (Goyal et al.,
    `Accurate, Large Minibatch SGD <https://arxiv.org/abs/1706.02677>`_), as
    MMPretrain does with ``--auto-scale-lr``:

    .. math::
        lr\_mult = \frac{lr}{lr_{recipe}} \cdot
                   \frac{batch_{recipe}}{batch}, \qquad
        decay\_mult = \frac{decay}{decay_{recipe}}

    A branch that differs in more than these has its own optimizer, with the
    rate for the recipe's batch size; also where the recipe states nothing
    that there could be a factor of.

    Where gradients are clipped, each branch keeps its own limit, that of the
    recipe included: a norm over all branches is another one than it was
    chosen for.
    """
    found = {}
    if source.cfg.get('load_from'):
        found['init_cfg'] = OwnSetting(
            dict(type='Pretrained', checkpoint=source.cfg.load_from),
            'load_from of its config')
    found.update(_clip_grad(source, recipe))
    if source is recipe:
        return found
    found.update(_statistics(source, recipe))
    size = source.input_size
    if None not in (size, recipe.input_size) and size != recipe.input_size:
        found['input_size'] = OwnSetting(
            size[0] if size[0] == size[1] else size,
            'images are resized to it')
    if source.optimizer:
        found.update(
            _factors(source, recipe) if _differ_by_factors(source, recipe) else
            _optimizer(source, recipe))
    return found


def _statistics(source: Source, recipe: Source) -> Dict[str, OwnSetting]:
    mean, std = source.statistics
    reason = ''
    if source.channel_order != recipe.channel_order:
        # The cohort's preprocessor decides on the order.
        mean, std = mean[::-1], std[::-1]
        reason = f'in the order of the cohort, {recipe.channel_order}'
    if (mean, std) == recipe.statistics:
        return {}
    return dict(mean=OwnSetting(mean, reason), std=OwnSetting(std, ''))


def _batch_ratio(source: Source, recipe: Source) -> float:
    """By how much the recipe's batches are larger, as far as it is known."""
    batches = source.total_batch, recipe.total_batch
    return 1. if None in batches else batches[1] / batches[0]


def _clip_grad(source: Source, recipe: Source) -> Dict[str, OwnSetting]:
    limits = recipe.optim_wrapper.get('clip_grad')
    own = limits
    if source.optim_wrapper:
        own = source.optim_wrapper.get('clip_grad')
    if not (limits or own):
        return {}
    return dict(clip_grad=OwnSetting(own and _plain_dict(own), ''))


def _differ_by_factors(source: Source, recipe: Source) -> bool:
    """Whether two optimizers are equal but for factors of rate and decay."""
    one, other = (
        call_text(part.optimizer, ('lr', 'weight_decay'))
        for part in (source, recipe))
    lr = source.lr and source.lr * _batch_ratio(source, recipe)
    return one == other and all(
        mine == theirs or recipe.optimizer.get(key)
        for key, mine, theirs in (('lr', lr, recipe.lr),
                                  ('weight_decay', source.weight_decay,
                                   recipe.weight_decay)))


def _optimizer(source: Source, recipe: Source) -> Dict[str, OwnSetting]:
    own = _plain_dict(source.optimizer)
    if not isinstance(own['type'], str):
        own['type'] = f'{own["type"].__module__}.{own["type"].__qualname__}'
    reason = f'not the {type_name(recipe.optimizer)} of {recipe.name}'
    scale = _batch_ratio(source, recipe)
    if source.lr is not None and scale != 1:
        own['lr'] = float(f'{source.lr * scale:.6g}')
        reason += (f'; it learns at {source.lr:g} with batches of '
                   f'{source.total_batch}, so here at {own["lr"]:g}')
    if recipe.optim_wrapper.get('paramwise_cfg'):
        # What is not stated has no factors.
        for key in ('lr', 'weight_decay'):
            default = source.of_optimizer(key)
            if default is not None:
                own.setdefault(key, default)
    return dict(optimizer=OwnSetting(own, reason))


def _plain_dict(cfg: Any) -> Dict[str, Any]:
    return {key: value for key, value in cfg.items() if key != '_scope_'}


def _factors(source: Source, recipe: Source) -> Dict[str, OwnSetting]:
    found = {}
    if source.lr is not None and recipe.lr:
        scale = _batch_ratio(source, recipe)
        reason = f'it learns at {source.lr:g}, {recipe.name} at {recipe.lr:g}'
        if scale != 1:
            reason = (f'it learns at {source.lr:g} with batches of '
                      f'{source.total_batch}, {recipe.name} at '
                      f'{recipe.lr:g} with batches of {recipe.total_batch}')
        factor = float(f'{source.lr / recipe.lr * scale:.6g}')
        if factor != 1:
            found['lr_mult'] = OwnSetting(factor, reason)
    if recipe.weight_decay:
        factor = float(f'{source.weight_decay / recipe.weight_decay:.6g}')
        if factor != 1:
            found['decay_mult'] = OwnSetting(
                factor, f'its weight decay is {source.weight_decay:g}, that '
                f'of {recipe.name} {recipe.weight_decay:g}')
    return found


def table(sources: Sequence[Source], recipe: Source, num_classes: int) -> str:
    """A table of what each config says of the settings that any of them has.
    Its last column tells what holds in the cohort, which is trained by the
    recipe, where they differ."""
    facts = [source.facts() for source in sources]
    lost = left_out(sources, recipe)
    rows = [['num_classes', *[str(num_classes)] * len(sources), '']]
    for setting in facts[0]:
        cells = [fact[setting] for fact in facts]
        if not any(cells):
            continue
        outcome = ''
        if len(set(cells)) > 1:
            outcome = f'as {recipe.name}' if any(
                setting in of_branch
                for of_branch in lost.values()) else 'each its own'
        rows.append([setting, *(cell or '-' for cell in cells), outcome])
    header = ['setting', *(source.name for source in sources), 'cohort']
    return render(header, rows)


def left_out(sources: Sequence[Source],
             recipe: Source) -> Dict[str, Dict[str, str]]:
    """What the cohort does not take over from the branches' own configs, by
    branch and setting, where that differs from the recipe."""
    given = recipe.facts()
    found = {}
    for source in sources:
        kept = set(
            chain(*(KEPT_BY[key] for key in own_settings(source, recipe))))
        # Those within its model go with it.
        kept.add('pre-trained weights')
        found[source.name] = {
            setting: text
            for setting, text in source.facts().items()
            if text != given[setting] and setting not in kept
        }
    return {name: settings for name, settings in found.items() if settings}
