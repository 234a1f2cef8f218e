import copy
from typing import Any, Mapping, Optional, Sequence

from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from mmpretrain.datasets import PackInputs

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import TRANSFORMS

__all__ = ['BranchViews']


@TRANSFORMS.register_module()
class BranchViews(BaseTransform):
    """Give each branch of a cohort a view of its own of an image.

    It stands last in a pipeline for training. What stands before it is done
    once; then each branch's own pipeline goes on from there, with random
    numbers of its own. This is how each network sees an image in KDCL (Guo et
    al., Online Knowledge Distillation via Collaborative Learning, CVPR 2020).

    Mixup and other batch augmentations mix the views of all branches alike.
    Validation and test take one image for all branches.

    Args:
        pipelines (dict[str, Sequence[dict | Callable]]): By branch the
            transforms, of which the last is a ``PackInputs``. All branches of
            the cohort must be there, those that are frozen included.

    Raises:
        ConfigError: If there is no pipeline, or one does not end so.

    Examples:
        >>> train_pipeline = [
        ...     dict(type='LoadImageFromFile'),
        ...     dict(type='mcod_plugin.BranchViews', pipelines=dict(
        ...         resnet=[
        ...             dict(type='RandomResizedCrop', scale=224),
        ...             dict(type='PackInputs')],
        ...         vit=[
        ...             dict(type='RandomResizedCrop', scale=224),
        ...             dict(type='ColorJitter', brightness=0.4),
        ...             dict(type='PackInputs')]))]
    """

    def __init__(self, pipelines: Mapping[str, Sequence[Any]]) -> None:
        if not isinstance(pipelines, Mapping) or not pipelines:
            raise ConfigError('pipelines of BranchViews must be a dict of a '
                              f'pipeline for each branch; got {pipelines!r}')
        self.pipelines = {
            name: _build(name, steps)
            for name, steps in pipelines.items()
        }

    def transform(self, results: dict) -> Optional[dict]:
        """Make the views of an image.

        Args:
            results (dict): What the pipeline has made of it so far.

        Returns:
            dict | None: ``inputs``, by branch the image as ``PackInputs``
            gives it, and ``data_samples``, that of the first view. None if
            a pipeline has rejected the image.
        """
        views = {}
        for name, pipeline in self.pipelines.items():
            # Transforms may write into what they are given.
            views[name] = pipeline(copy.deepcopy(results))
            if views[name] is None:
                return None
        first = next(iter(views.values()))
        inputs = {name: view['inputs'] for name, view in views.items()}
        return dict(first, inputs=inputs)

    def __repr__(self) -> str:
        pipelines = ', '.join(f'{name}={pipeline}'
                              for name, pipeline in self.pipelines.items())
        return f'{type(self).__name__}({pipelines})'


def _build(name: str, steps: Sequence[Any]) -> Compose:
    """The pipeline of a branch."""
    built = [
        TRANSFORMS.build(step) if isinstance(step, Mapping) else step
        for step in (steps if isinstance(steps, (list, tuple)) else ())
    ]
    if not built or not isinstance(built[-1], PackInputs):
        got = type(built[-1]).__name__ if built else repr(steps)
        raise ConfigError(
            f'pipelines.{name} of BranchViews must be a list of transforms '
            f'that ends with PackInputs; got {got}')
    return Compose(built)
