"""All that there is to know of a branch that is taken out of its cohort."""
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Dict, List, Optional, Tuple

import torch.nn as nn
from mmpretrain.models.classifiers import BaseClassifier
from torch import Tensor

from mcod_plugin.config.data import channel_order, pipeline_of
from mcod_plugin.config.input_size import data_input_size
from mcod_plugin.config.model_config import preprocessor_config
from mcod_plugin.config.parts import is_part
from mcod_plugin.config.plain import plain
from mcod_plugin.config.read import imported_modules
from mcod_plugin.models.necks import LayoutPooling
from mcod_plugin.models.utils.branch_settings import BranchSettings
from .classifier_config import PLUGIN, needs_plugin, stand_alone
from .cohort import branch_pixels
from .data import (crop_ratio, evaluator, interpolation, loader_alone,
                   preprocessor, source_loader)
from .images import Images
from .timm_twin import TimmTwin, timm_twin

__all__ = ['BranchModel', 'branch_model']


@dataclass
class BranchModel:
    """A branch as it stands alone: what every format is written from.

    Attributes:
        name (str): Its name in the cohort.
        classifier (nn.Module): The classifier, in eval mode and single
            precision on the CPU.
        config (dict): The plain config of the classifier, complete.
        preprocessor (dict): The plain config of its preprocessor.
        test_settings (dict): ``test_dataloader``, ``test_evaluator`` and
            ``test_cfg`` as MMPretrain's test tool takes them.
        imports (list[str]): Modules of the user's own that the cohort's
            config imports. What they register may be needed.
        num_classes (int): Number of classes.
        input_shape (tuple[int, int, int]): Channels, height and width of its
            images, the two latter in pixels.
        mean (tuple[float]): Mean of each channel, on the scale of the pixels.
        std (tuple[float]): Standard deviation of each channel.
        data_order (str): ``'RGB'`` or ``'BGR'``, the order of the channels as
            the data set gives them.
        to_rgb (bool): Whether the preprocessor turns the order round.
        crop_ratio (float): The share of an image's side that is kept.
        interpolation (str): How images are resized, as timm calls it.
        classes (list[str], optional): Names of the classes.
        metrics (dict): What is known of its accuracy.
        origin (dict): Where it comes from.
    """

    name: str
    classifier: nn.Module
    config: Dict[str, Any]
    preprocessor: Dict[str, Any]
    test_settings: Dict[str, Any]
    imports: List[str]
    num_classes: int
    input_shape: Tuple[int, int, int]
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    data_order: str
    to_rgb: bool
    crop_ratio: float = 1.
    interpolation: str = 'bilinear'
    classes: Optional[List[str]] = None
    metrics: Dict[str, Any] = field(default_factory=dict)
    origin: Dict[str, Any] = field(default_factory=dict)

    @property
    def channel_order(self) -> str:
        """The order of the channels that the network sees."""
        turned = self.to_rgb and self.input_shape[0] == 3
        return self.data_order[::-1] if turned else self.data_order

    @cached_property
    def timm(self) -> Optional[TimmTwin]:
        """The network of timm that it is; None if it is none."""
        return timm_twin(self.config, self.classifier, self.num_classes,
                         (2, *self.input_shape))

    @cached_property
    def mmpretrain(self) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
        """The classifier's config and its weights, in MMPretrain's own types
        where they have the branch.

        MMPretrain cannot pool maps ``(N, H, W, C)`` or tokens, as our
        ``LayoutPooling`` does. timm does it inside the network.
        """
        neck = self.config.get('neck') or {}
        pools = is_part(neck, LayoutPooling)
        if not pools or self.timm is None:
            return self.config, self.classifier.state_dict()
        config = dict(
            type='TimmClassifier',
            model_name=self.timm.architecture,
            num_classes=self.num_classes,
            **self.timm.model_args)
        if 'loss' in self.config['head']:
            config['loss'] = self.config['head']['loss']
        return config, self.timm.network.state_dict()

    @property
    def is_plain(self) -> bool:
        """Whether it is a plain network, which MMPretrain's tools do not
        take."""
        return not isinstance(self.classifier, BaseClassifier)

    @property
    def needs_plugin(self) -> bool:
        """Whether the classifier cannot be built without this plugin."""
        return needs_plugin([self.mmpretrain[0], self.preprocessor])

    @property
    def custom_imports(self) -> List[str]:
        """The modules that a config of the classifier imports."""
        return [PLUGIN] * self.needs_plugin + self.imports

    @property
    def own_packages(self) -> List[str]:
        """Packages of the user's own that must be installed for these."""
        found = [name.partition('.')[0] for name in self.imports]
        return [name for name in dict.fromkeys(found) if name != 'mmpretrain']

    @property
    def tests_need_plugin(self) -> bool:
        """Whether the data set or the metrics are this plugin's."""
        return needs_plugin(self.test_settings)


def branch_model(cfg: Any, cohort: nn.Module, name: str, images: Images,
                 classes: Optional[List[str]],
                 origin: Dict[str, Any]) -> BranchModel:
    """All that there is to know of a branch as it stands alone, whose config
    must be of plain values: with images as the data set gives them, the names
    of the classes, if they are known, and where it comes from."""
    classifier = cohort.branches[name]
    settings = cohort.branch_settings[name]
    own = BranchSettings.of_cohort(cohort.input_size, cohort.data_preprocessor,
                                   cohort.in_channels)
    config, _ = own.take(name, cfg.model.branches[name], cohort.in_channels)
    loader = source_loader(cfg)
    pipeline = pipeline_of(loader)
    channels, *size = branch_pixels(cohort, name, images.pixels[:1]).shape[1:]
    # Whoever has images of another size has them resized, too. For those of
    # the data set it changes nothing.
    resizes = settings.resized or (images.labels is not None
                                   and data_input_size([loader]) is None)
    metrics = cfg.get('test_evaluator') or cfg.get('val_evaluator')
    return BranchModel(
        name=name,
        classifier=classifier,
        config=stand_alone(f'model.branches.{name}', config, classifier),
        preprocessor=preprocessor(
            preprocessor_config(cfg), settings.mean, settings.std,
            cohort.num_classes),
        test_settings=dict(
            test_dataloader=loader_alone(loader, size if resizes else None,
                                         channels, settings.resized),
            test_evaluator=evaluator(metrics, cohort.num_classes,
                                     cohort.multi_label),
            test_cfg=dict()),
        imports=[
            module for module in plain('custom_imports.imports',
                                       imported_modules(cfg))
            if module.partition('.')[0] != PLUGIN
        ],
        num_classes=cohort.num_classes,
        input_shape=(channels, *size),
        mean=settings.mean or (0., ) * channels,
        std=settings.std or (1., ) * channels,
        data_order=channel_order(pipeline),
        to_rgb=bool(getattr(cohort.data_preprocessor, 'to_rgb', False)),
        crop_ratio=crop_ratio(pipeline),
        # The cohort itself resizes the images of a branch in this way.
        interpolation='bilinear'
        if settings.resized else interpolation(pipeline),
        classes=classes,
        origin=origin)
