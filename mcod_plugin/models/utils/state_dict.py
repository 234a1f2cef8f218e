"""State-dict keys of classifiers that rename them."""
from typing import Dict

import torch.nn as nn
from torch import Tensor

__all__ = ['name_keys_in_place']


def name_keys_in_place(classifier: nn.Module) -> None:
    """Make a wrapper's renaming of state-dict keys work inside a parent.

    ``TimmClassifier`` and ``HuggingFaceClassifier`` hide that the network
    lies in their attribute ``model``: a hook drops ``model.`` from the saved
    keys, and another puts it back. The first returns a new dict, which
    PyTorch ignores in a child module, so that the weights of a nested
    classifier would be saved by one name and looked for by another. Here both
    are exchanged for hooks that do the same in place; other classifiers stay
    as they are.

    Args:
        classifier (nn.Module): A built classifier, which is changed.
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
        rest = key[len(prefix):]
        if rest.startswith('model.'):
            rest = rest[len('model.'):]
        state_dict[prefix + rest] = value


def _restore_model(classifier: nn.Module, state_dict: Dict[str, Tensor],
                   prefix: str, *args) -> None:
    others = set(classifier._modules) - {'model'}
    for key in [key for key in state_dict if key.startswith(prefix)]:
        rest = key[len(prefix):]
        if rest.partition('.')[0] not in others:
            state_dict[f'{prefix}model.{rest}'] = state_dict.pop(key)
