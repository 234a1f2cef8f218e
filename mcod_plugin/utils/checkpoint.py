"""Reading checkpoints as data."""
import os
import pickle
import warnings
from http.client import HTTPException
from typing import Callable, Union

import torch

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.explain import one_line

__all__ = ['read_checkpoint']


def read_checkpoint(filename: str,
                    map_location: Union[str, Callable] = 'cpu') -> dict:
    """Open a checkpoint without running any code that it may hold.

    Args:
        filename (str): A local path or an ``http(s)`` address.
        map_location (str | Callable): See :func:`torch.load`.
            Defaults to ``'cpu'``.

    Returns:
        dict: The checkpoint.

    Raises:
        ConfigError: If the file is missing, cannot be fetched, is
            incomplete, no checkpoint, or holds more than data.
    """
    remote = filename.startswith(('http://', 'https://'))
    if not remote and not os.path.isfile(filename):
        raise ConfigError(f'checkpoint {filename}: there is no such file')
    try:
        with warnings.catch_warnings():
            # They advise on files that are no checkpoints.
            warnings.simplefilter('ignore')
            if remote:
                checkpoint = torch.hub.load_state_dict_from_url(
                    filename, map_location=map_location, weights_only=True)
            else:
                checkpoint = torch.load(
                    filename, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own text goes on with advice to run the code all the same.
        raise ConfigError(
            f'checkpoint {filename} is damaged or holds a pickle payload '
            '(more than tensors and plain containers), as that of MMEngine\'s '
            'own CheckpointHook; it was refused, and nothing of it was '
            'executed; if you trust it, copy its weights: torch.save('
            'torch.load(FILE, weights_only=False)["state_dict"], NEW_FILE)'
        ) from error
    except Exception as error:
        if remote and isinstance(error, (OSError, HTTPException)):
            raise ConfigError(f'checkpoint {filename} cannot be fetched '
                              f'({one_line(error)})') from error
        # Bytes at random make the reader fail in any way. Of its text the
        # first sentence tells how; advice follows.
        reason = str(error).partition('. ')[0] or type(error).__name__
        raise ConfigError(f'checkpoint {filename} is truncated or no '
                          f'checkpoint at all ({reason})') from error
    if not isinstance(checkpoint, dict):
        raise ConfigError(f'checkpoint {filename} must hold a dict; got a '
                          f'{type(checkpoint).__name__}')
    return checkpoint
