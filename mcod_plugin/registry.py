"""Registries of the plugin.

They are children of MMEngine's root registries, so the parts are found as
``mcod_plugin.<Name>`` from any default scope, and importing this package
clashes with no name of another OpenMMLab package.
"""
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import EVALUATOR as MMENGINE_EVALUATOR
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import \
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry
from mmpretrain.registry import TRANSFORMS as MMPRETRAIN_TRANSFORMS

__all__ = [
    'DATASETS', 'EVALUATORS', 'FUNCTIONS', 'HOOKS', 'METRICS', 'MODELS',
    'OPTIM_WRAPPERS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'RUNNERS', 'TRANSFORMS'
]

# classifiers, backbones, necks, heads, losses
MODELS = Registry(
    'model', parent=MMENGINE_MODELS, locations=['mcod_plugin.models'])
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, locations=['mcod_plugin.datasets'])
METRICS = Registry(
    'metric', parent=MMENGINE_METRICS, locations=['mcod_plugin.evaluation'])
EVALUATORS = Registry(
    'evaluator',
    parent=MMENGINE_EVALUATOR,
    locations=['mcod_plugin.evaluation'])
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, locations=['mcod_plugin.engine'])
OPTIM_WRAPPERS = Registry(
    'optim_wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    locations=['mcod_plugin.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optim_wrapper_constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    locations=['mcod_plugin.engine'])
RUNNERS = Registry(
    'runner', parent=MMENGINE_RUNNERS, locations=['mcod_plugin.engine'])
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    locations=['mcod_plugin.datasets'])
# A pipeline mixes ours with MMPretrain's, which are found by their bare names
# also where the default scope is this plugin's.
TRANSFORMS.parent = MMPRETRAIN_TRANSFORMS
# collate_fn of data loaders
FUNCTIONS = Registry(
    'function', parent=MMENGINE_FUNCTIONS, locations=['mcod_plugin.datasets'])
