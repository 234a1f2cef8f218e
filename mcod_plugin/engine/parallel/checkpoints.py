"""One checkpoint of a cohort, and the parts of it that processes have."""
from typing import Any, Collection, Dict, Iterable, List, Mapping, Sequence

from mcod_plugin.utils.checkpoint import branch_of

__all__ = ['merged', 'own_part']

NAMES = 'param_names'
# A group more, without parameters, that MMEngine's wrapper has besides several
# groups. Schedulers know of it as of the last one.
BASE = 'base_param_settings'
# What schedulers know by group.
BY_GROUP = ('base_values', '_last_value', 'min_values')


def own_part(checkpoint: Mapping[str, Any],
             away: Collection[str]) -> Dict[str, Any]:
    """A copy of a checkpoint without some branches, without groups of the
    optimizer that are left without parameters, and without what schedulers
    know of these."""
    own = dict(checkpoint)
    if 'state_dict' not in own:
        # Weights only.
        return {key: own[key] for key in own if _branch(key) not in away}
    own['state_dict'] = {
        key: value
        for key, value in own['state_dict'].items() if _branch(key) not in away
    }
    saved = own.get('optimizer')
    if saved is None or any(
            len(group.get(NAMES, ())) != len(group['params'])
            for group in saved['param_groups']):
        # One that names nothing is told so by whoever matches it.
        return own
    groups, kept = [], []
    for place, group in enumerate(saved['param_groups']):
        pairs = [(number, name)
                 for number, name in zip(group['params'], group[NAMES])
                 if _branch(name) not in away]
        if pairs:
            kept.append(place)
            groups.append({
                **group, 'params': [number for number, _ in pairs],
                NAMES: [name for _, name in pairs]
            })
    numbers = {number for group in groups for number in group['params']}
    own['optimizer'] = dict(
        saved,
        param_groups=groups,
        state={
            number: value
            for number, value in saved['state'].items() if number in numbers
        })
    if BASE in saved:
        kept.append(len(saved['param_groups']))
    if isinstance(own.get('param_schedulers'), list):
        own['param_schedulers'] = [{
            key: [value[place] for place in kept] if key in BY_GROUP else value
            for key, value in state.items()
        } for state in own['param_schedulers']]
    return own


def merged(parts: Sequence[Dict[str, Any]],
           names: Sequence[str]) -> Dict[str, Any]:
    """The checkpoint that one process would have of a cohort, from those of
    the processes that share its branches: ``state_dict``, and ``optimizer``
    and ``param_schedulers`` if they are saved. What is of no branch is equal
    in all. Groups of the optimizer that are equal in all but their parameters
    are one."""
    whole: Dict[str, Any] = {}
    for part in parts:
        for key, value in part['state_dict'].items():
            whole.setdefault(key, value)
    found = dict(parts[0])
    found['state_dict'] = {key: whole[key] for key in _sorted(whole, names)}
    if 'optimizer' not in found:
        return found
    groups: List[tuple] = []
    states: Dict[str, Any] = {}
    for part in parts:
        saved = part['optimizer']
        for place, group in enumerate(saved['param_groups']):
            schedules = _entries(part, place)
            own = [(name, saved['state'].get(number))
                   for name, number in zip(group[NAMES], group['params'])
                   if name not in states]
            states.update(own)
            settings = {
                key: value
                for key, value in group.items() if key not in ('params', NAMES)
            }
            for other, known, members in groups:
                if (other, known) == (settings, schedules):
                    members += [name for name, _ in own]
                    break
            else:
                if own:
                    groups.append(
                        (settings, schedules, [name for name, _ in own]))
    order = {key: place for place, key in enumerate(found['state_dict'])}
    groups.sort(key=lambda group: min(order[name] for name in group[2]))
    numbers: Dict[str, int] = {}
    for *_, members in groups:
        members.sort(key=order.get)
        for name in members:
            numbers[name] = len(numbers)
    found['optimizer'] = dict(
        found['optimizer'],
        state={
            number: states[name]
            for name, number in numbers.items() if states[name] is not None
        },
        param_groups=[{
            **settings, 'params': [numbers[name] for name in members],
            NAMES: members
        } for settings, _, members in groups])
    entries = [schedules for _, schedules, _ in groups]
    if all(BASE in part['optimizer'] for part in parts):
        entries.append(
            _entries(parts[0], len(parts[0]['optimizer']['param_groups'])))
    else:
        found['optimizer'].pop(BASE, None)
    if isinstance(found.get('param_schedulers'), list):
        found['param_schedulers'] = [{
            **state,
            **{
                key: [entry[index][key] for entry in entries]
                for key in entries[0][index]
            }
        } for index, state in enumerate(found['param_schedulers'])]
    return found


def _branch(key: str) -> str:
    # MMEngine takes off what a wrapper has put before it.
    return branch_of(key.removeprefix('module.'))


def _sorted(keys: Iterable[str], names: Sequence[str]) -> List[str]:
    """Keys in the order of a cohort's state dict. What is before and after
    the branches stays where it is."""
    keys = list(keys)
    first = next((place for place, key in enumerate(keys) if _branch(key)), 0)
    order = {name: place for place, name in enumerate(names)}
    before = keys[:first]
    own = [key for key in keys if _branch(key)]
    after = [key for key in keys[first:] if not _branch(key)]
    # Sorting keeps the order within a branch.
    return before + sorted(own, key=lambda key: order[_branch(key)]) + after


def _entries(checkpoint: Mapping[str, Any],
             place: int) -> List[Dict[str, Any]]:
    """What each scheduler knows of one group of the optimizer."""
    return [{
        key: state[key][place]
        for key in BY_GROUP if key in state
    } for state in checkpoint.get('param_schedulers') or ()]
