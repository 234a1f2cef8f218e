"""How the config of a run that goes on differs from the one it had."""
import json
import re
from inspect import isclass
from typing import Any, Dict, Iterator, List, Mapping, Tuple

__all__ = ['config_changes', 'json_config', 'keep_settings']

# Settings of which a resumed run takes the checkpoint's value: they are part
# of the optimizer's state, of the schedulers' or of the weights.
KEPT = re.compile(
    r'optim_wrapper\.(optimizer|paramwise_cfg|constructor|loss_scale)(\.|$)'
    r'|auto_scale_lr(\.|$)'
    r'|param_scheduler(\.|$)|randomness\.seed$'
    r'|model\.branches\.[^.]+\.(lr_mult|decay_mult|optimizer(\..+)?)$'
    r'|model\.(branches\..+\.)?(init_cfg|pretrained)(\.|$)')
# How PyTorch computes the same step.
TAKEN = re.compile(
    r'(optim_wrapper|model\.branches\.[^.]+)\.optimizer\.'
    r'(foreach|fused|capturable)$')
# What says where a run is, how it is started or what it prints.
IGNORED = re.compile(
    r'(work_dir|experiment_name|load_from|resume|launcher|parallel|log_level'
    r'|log_processor|visualizer|vis_backends)(\.|$)'
    r'|custom_hooks\.\d+\.out$')


def json_config(cfg: Any) -> Dict[str, Any]:
    """A copy of a config as JSON holds it. A class or a function is told by
    its dotted name, anything else by its ``repr``."""
    cfg = cfg.to_dict() if hasattr(cfg, 'to_dict') else cfg
    return json.loads(json.dumps(cfg, default=_text))


def _text(value: Any) -> str:
    if isclass(value) or callable(value):
        name = getattr(value, '__qualname__', None)
        if name is not None:
            return f'{value.__module__}.{name}'
    return repr(value)


def config_changes(before: Mapping[str, Any],
                   now: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The settings that differ between the config of a run so far and that of
    the run that goes on, both by :func:`json_config`.

    Of each ``setting``, its dotted path, the values ``before`` and ``now`` are
    told, of which the one that is not there is left out, and whether the new
    one ``takes_effect``. Settings that say where a run is or what it prints
    are no changes.
    """
    before, now = dict(_leaves(before)), dict(_leaves(now))
    changes = []
    for key in dict.fromkeys([*before, *now]):
        found = {
            name: values[key]
            for name, values in (('before', before), ('now', now))
            if key in values
        }
        if IGNORED.match(key) or len(found) == 2 and before[key] == now[key]:
            continue
        changes.append(dict(setting=key, **found, takes_effect=not _kept(key)))
    return changes


def keep_settings(cfg: Any, before: Mapping[str, Any]) -> None:
    """Give the config of a run that goes on back the settings whose new values
    take no effect, from that of the run so far by :func:`json_config`."""
    # The dict within a Config, from which entries can be removed.
    _keep(getattr(cfg, '_cfg_dict', cfg), before, '')


def _keep(now: Any, before: Any, path: str) -> None:
    if isinstance(now, list):
        for index, pair in enumerate(zip(now, before)):
            _keep(*pair, f'{path}.{index}')
        return
    for key in dict.fromkeys([*now, *before]):
        where = f'{path}.{key}' if path else str(key)
        new, old = now.get(key), before.get(key)
        if _kept(where) and not (_is_dict(new) and _is_dict(old)):
            if key not in before:
                del now[key]
            elif json_config(new) != old:
                now[key] = old
        elif _holds_parts(new) and _holds_parts(old) and len(new) == len(old):
            if all(map(_is_dict, [*new, *old])):
                _keep(new, old, where)
        elif (_is_dict(new) or key not in now) and (_is_dict(old)
                                                    or key not in before):
            # What one of them lacks may have settings that are kept.
            empty = new == {}
            if key not in now:
                now[key] = {}
            _keep(now[key], old or {}, where)
            if not now[key] and not empty:
                del now[key]


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping)


def _kept(key: str) -> bool:
    return KEPT.match(key) is not None and TAKEN.match(key) is None


def _holds_parts(value: Any) -> bool:
    return isinstance(value, list) and any(
        isinstance(item, (Mapping, list)) for item in value)


def _leaves(value: Any, path: str = '') -> Iterator[Tuple[str, Any]]:
    """The values of a config by dotted path. A list counts as one unless it
    holds parts."""
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif _holds_parts(value):
        items = enumerate(value)
    else:
        yield path, value
        return
    for key, child in items:
        yield from _leaves(child, f'{path}.{key}' if path else str(key))
