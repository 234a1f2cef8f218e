"""The keys of state dicts: those of a cohort, and of classifiers that rename
theirs."""
from typing import Dict

import torch.nn as nn
from torch import Tensor

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.checkpoint import state_dict_mismatches

__all__ = ['check_state_dict', 'name_keys_in_place']


def check_state_dict(model: nn.Module, state_dict: Dict[str, Tensor],
                     prefix: str, *args) -> None:
    """Raise unless a state dict is exactly a cohort's; a hook that PyTorch
    calls before it is loaded. The state dict gets what an older one lacks of
    the teacher.

    MMEngine only logs what does not fit; a branch that was renamed would start
    from chance.
    """
    given = {
        key[len(prefix):]: value
        for key, value in state_dict.items() if key.startswith(prefix)
    }
    for key, value in model.teacher.missing_state(given).items():
        given[key] = state_dict[f'{prefix}{key}'] = value
    mismatches = state_dict_mismatches(model.state_dict(), given)
    if mismatches:
        raise ConfigError('the checkpoint is not of this cohort '
                          f'({", ".join(model.branches)}): it ' +
                          '; it '.join(mismatches))


def name_keys_in_place(classifier: nn.Module) -> None:
    """Make a wrapper's renaming of state-dict keys work inside a parent.

    ``TimmClassifier`` and ``HuggingFaceClassifier`` hide that the network lies
    in their attribute ``model``: a hook drops ``model.`` from the saved keys,
    and another puts it back. The first returns a new dict, which PyTorch
    ignores in a child module, so that the weights of a nested classifier would
    be saved by one name and looked for by another. Here both are exchanged for
    hooks that do the same in place; other classifiers stay as they are.
    """
    saving = [
        key for key, hook in classifier._state_dict_hooks.items()
        if getattr(hook, '__name__', '') == '_remove_state_dict_prefix'
    ]
    loading = [
        key for key, hook in classifier._load_state_dict_pre_hooks.items()
        if getattr(getattr(hook, 'hook', hook), '__name__',
                   '') == '_add_state_dict_prefix'
    ]
    if not saving:
        return
    for key in saving:
        del classifier._state_dict_hooks[key]
    for key in loading:
        del classifier._load_state_dict_pre_hooks[key]
    classifier._register_state_dict_hook(_drop_model)
    classifier._register_load_state_dict_pre_hook(
        _restore_model, with_module=True)


def _drop_model(classifier: nn.Module, state_dict: Dict[str, Tensor],
                prefix: str, local_metadata: dict) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        value = state_dict.pop(key)
        rest = key.removeprefix(prefix).removeprefix('model.')
        state_dict[prefix + rest] = value


def _restore_model(classifier: nn.Module, state_dict: Dict[str, Tensor],
                   prefix: str, *args) -> None:
    others = set(classifier._modules) - {'model'}
    for key in [key for key in state_dict if key.startswith(prefix)]:
        rest = key.removeprefix(prefix)
        if rest.partition('.')[0] not in others:
            state_dict[f'{prefix}model.{rest}'] = state_dict.pop(key)
