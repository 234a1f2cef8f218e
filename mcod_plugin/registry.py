"""Registries of the plugin.

They are children of MMEngine's root registries, so the parts are found as
``mcod_plugin.<Name>`` from any default scope, and importing this package
clashes with no name of another OpenMMLab package.
"""
import mmengine.registry as root
from mmengine.registry import Registry
from mmpretrain.registry import TRANSFORMS as MMPRETRAIN_TRANSFORMS

__all__ = [
    'DATASETS', 'EVALUATORS', 'FUNCTIONS', 'HOOKS', 'METRICS', 'MODELS',
    'OPTIM_WRAPPERS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'RUNNERS', 'TRANSFORMS'
]


def _child(parent: Registry, package: str) -> Registry:
    return Registry(
        parent.name, parent=parent, locations=[f'mcod_plugin.{package}'])


# classifiers, backbones, necks, heads, losses
MODELS = _child(root.MODELS, 'models')
DATASETS = _child(root.DATASETS, 'datasets')
METRICS = _child(root.METRICS, 'evaluation')
EVALUATORS = _child(root.EVALUATOR, 'evaluation')
HOOKS = _child(root.HOOKS, 'engine')
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
RUNNERS = _child(root.RUNNERS, 'engine')
TRANSFORMS = _child(root.TRANSFORMS, 'datasets')
# A pipeline mixes ours with MMPretrain's, which are found by their bare names
# also where the default scope is this plugin's.
TRANSFORMS.parent = MMPRETRAIN_TRANSFORMS
# collate_fn of data loaders
FUNCTIONS = _child(root.FUNCTIONS, 'datasets')
