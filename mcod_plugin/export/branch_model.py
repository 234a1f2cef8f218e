from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Dict, List, Optional, Tuple

import torch.nn as nn
from torch import Tensor

from mcod_plugin.config.parts import is_part
from mcod_plugin.models.necks import LayoutPooling
from .classifier_config import PLUGIN, needs_plugin
from .timm_twin import TimmTwin, timm_twin

__all__ = ['BranchModel']


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
            ``test_cfg`` as the toolbox's test tool takes them.
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
    def toolbox(self) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
        """The classifier's config and its weights, in types of the toolbox
        where they have the branch.

        The toolbox cannot pool maps ``(N, H, W, C)`` or tokens, as our
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
    def needs_plugin(self) -> bool:
        """Whether the classifier cannot be built without this plugin."""
        return needs_plugin([self.toolbox[0], self.preprocessor])

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
