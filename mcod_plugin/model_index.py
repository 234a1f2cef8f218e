"""The configs of this plugin, and how MMPretrain comes to know their names.

Importing the plugin imports neither PyTorch nor MMPretrain. So the names are
entered when both are there, whichever is imported first.
"""
import importlib.util
import os.path as osp
import sys
import warnings
from types import ModuleType
from typing import Any, NoReturn, Optional, Sequence

__all__ = ['HOME', 'enter_models']

_PACKAGE = osp.dirname(osp.abspath(__file__))
# The folder of model-index.yml and configs: within an installed package, as
# with MMPretrain, and beside the package in a clone.
HOME = osp.join(_PACKAGE, '.mim')
if not osp.isdir(HOME):
    HOME = osp.dirname(_PACKAGE)

# The module of MMPretrain that knows models by name.
HUB = 'mmpretrain.apis.model'
# Stands where the address of a model's weights will stand.
UNPUBLISHED = 'unpublished:'


def enter_models() -> None:
    """Enter the models into the hub of MMPretrain, now or when it is
    imported.

    From then on ``mmpretrain.list_models('mcod*')`` lists them, and
    ``get_model`` builds them by name.
    """
    if HUB in sys.modules:
        _enter(sys.modules[HUB])
    else:
        sys.meta_path.insert(0, _HubFinder())


class _HubFinder:
    """Waits for the import of the hub.

    It does without the base class of finders, whose import takes longer than
    all else here.
    """

    def find_spec(self,
                  name: str,
                  path: Optional[Sequence[str]] = None,
                  target: Optional[ModuleType] = None) -> Any:
        """Find the hub as if this finder were not there."""
        if name != HUB:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_enter(module: ModuleType) -> None:
            execute(module)
            _enter(module)

        spec.loader.exec_module = execute_and_enter
        return spec


def _enter(hub: ModuleType) -> None:
    # The names are a convenience: whatever a version of MMPretrain does
    # otherwise must not keep it from being imported.
    try:
        from mmengine.runner.checkpoint import CheckpointLoader
        CheckpointLoader.register_scheme(
            UNPUBLISHED, load_from_unpublished, force=True)
        known = set(hub.ModelHub._models_dict)
        hub.ModelHub.register_model_index(
            osp.join(HOME, 'model-index.yml'), config_prefix=HOME)
        for name, model in hub.ModelHub._models_dict.items():
            if name not in known and model.weights is None:
                # MMPretrain would warn and go on with random weights.
                model.weights = UNPUBLISHED + name
    except Exception as error:
        warnings.warn('MMPretrain does not know the models of mcod_plugin by '
                      f'name: {type(error).__name__}: {error}')


def load_from_unpublished(filename: str,
                          map_location: Any = None) -> NoReturn:
    """Where MMEngine comes to for weights that are not published.

    Args:
        filename (str): ``'unpublished:'`` and the model's name.
        map_location (Any, optional): Not used. Defaults to None.

    Raises:
        ConfigError: Always.
    """
    from .errors import ConfigError
    name = filename[len(UNPUBLISHED):]
    raise ConfigError(
        f'pretrained=True: no weights of {name} are published yet; train it '
        'and give its checkpoint, pretrained="work_dirs/.../epoch_N.pth", or '
        'pretrained=False for random weights')
