import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from mcod_plugin.errors import ConfigError, check_branches, check_choice
from mcod_plugin.registry import MODELS
from .base_kd_loss import BaseKDLoss

# The layouts of features, and how many dimensions one of an image has.
LAYOUTS = {'NCHW': 3, 'NHWC': 3, 'tokens': 2, 'NCL': 2, 'flat': 1}
# The most tokens (for the class, registers) before those of the image.
MAX_PREFIX_TOKENS = 8


def feature_kd_loss(projected: Tensor, feature: Tensor) -> Tensor:
    r"""Distance of a student's projected features from its teacher's.

    .. math::
        L = \frac{1}{N H W C} \sum_{nhwc} \left( r_{nhwc} -
            \frac{f_{nhwc} - \mu_{nhw}}{\sigma_{nhw}} \right)^2

    where :math:`r` are the projected features, :math:`f` the teacher's, and
    :math:`\mu` and :math:`\sigma` their mean and standard deviation over the
    channels. No gradient flows to the teacher. Features of half precision are
    compared in float32.

    Args:
        projected (Tensor): The student's ``(N, H, W, C)``.
        feature (Tensor): The teacher's ``(N, H, W, C)``.

    Returns:
        Tensor: The loss, a scalar.
    """
    dtype = torch.promote_types(projected.dtype, torch.float32)
    feature = F.layer_norm(feature.detach().to(dtype), feature.shape[-1:])
    return F.mse_loss(projected.to(dtype), feature)


def guess_layout(shape: Sequence[int]) -> str:
    """How a feature is laid out, by its shape alone.

    Args:
        shape (Sequence[int]): The shape for one image, of 1 to 3 dimensions.

    Returns:
        str: ``'flat'`` ``(C, )``, ``'tokens'`` ``(L, C)``, ``'NHWC'`` if the
        first two of three sizes are equal and the last one is not, else
        ``'NCHW'``.
    """
    if len(shape) == 3:
        return 'NHWC' if shape[0] == shape[1] != shape[2] else 'NCHW'
    return 'tokens' if len(shape) == 2 else 'flat'


def to_map(feature: Tensor, layout: str) -> Tensor:
    """A feature as a map.

    Args:
        feature (Tensor): The feature, of 2 to 4 dimensions.
        layout (str): One of :data:`LAYOUTS`.

    Returns:
        Tensor: ``(N, C, H, W)``. Tokens are a square map if they are one
        after at most eight others, which are left out; otherwise they are a
        map of one place, their mean. So is a flat feature.
    """
    if layout == 'NCHW':
        return feature
    if layout == 'NHWC':
        return feature.permute(0, 3, 1, 2)
    if layout == 'flat':
        return feature[:, :, None, None]
    tokens = feature if layout == 'NCL' else feature.transpose(1, 2)
    side = math.isqrt(tokens.shape[2])
    others = tokens.shape[2] - side**2
    if others > MAX_PREFIX_TOKENS:
        return tokens.mean(2)[:, :, None, None]
    return tokens[:, :, others:].unflatten(2, (side, side))


@MODELS.register_module()
class FeatureKDLoss(BaseKDLoss):
    r"""Each branch learns to tell the features of its peers from its own.

    .. math::
        L_i = \frac{1}{P} \sum_{j \neq i} D(R_{ij} f_i, f_j)

    where :math:`f` are features of the backbones, :math:`R_{ij}` is a linear
    map with a bias at each place, which is learned together with the
    branches, and :math:`D` is :func:`feature_kd_loss`. The greater of two maps
    is averaged to the height and the width of the other, so that networks of
    any shape go together: maps of any size, tokens and flat features. No
    gradient flows to the peer whose features are followed.

    This is after `FitNets: Hints for Thin Deep Nets
    <https://arxiv.org/abs/1412.6550>`_ (Romero et al., ICLR 2015), equation
    3. There one network that was trained before gives the hints, of a middle
    layer and in a stage of training before the others, and a convolution
    makes one size of the other. Here the branches learn together and all are
    hints to each other, throughout and of the last layer unless ``index``
    says otherwise. Features that are followed are normalised at each place,
    because the scales of unlike networks have nothing in common; so the loss
    is a mean over elements, not half their sum.

    Nothing pulls at the logits, so that the ``kd_ratio`` in the log is 0. The
    projections stand under ``distill.projections.<branch>.<peer>`` in the
    cohort's state dict. They are no part of a branch, and so of no export.
    They take no numbers from the global random state: the branches start from
    the same weights as with any other loss.

    Args:
        index (int): Which of a backbone's features are compared; most give
            only one, the last, unless their ``out_indices`` say otherwise.
            Defaults to -1.
        peers (str | Sequence[str], optional): Names of the branches whose
            features are followed. Defaults to all.
        layouts (dict[str, str], optional): How the features of a branch are
            laid out, if the guess by :func:`guess_layout` is wrong:
            ``'NCHW'``, ``'NHWC'``, ``'tokens'`` ``(N, L, C)``, ``'NCL'`` or
            ``'flat'``. Defaults to None.

    Attributes:
        needs_feats (bool): That it is called with ``feats`` and ``names``.
        takes_alive (bool): That branches can be left out: nobody follows
            features that are not finite.
        projections (nn.ModuleDict): By branch and peer, the linear maps.

    Raises:
        ConfigError: If a setting is none of those allowed, here or in
            :meth:`setup`.

    Examples:
        >>> model = dict(distill=dict(type='mcod_plugin.FeatureKDLoss'))
    """

    needs_feats = True
    takes_multi_label = True
    takes_alive = True

    def __init__(self,
                 index: int = -1,
                 peers: Optional[Union[str, Sequence[str]]] = None,
                 layouts: Optional[Mapping[str, str]] = None) -> None:
        super().__init__()
        if not isinstance(index, int) or isinstance(index, bool):
            raise ConfigError('distill.index must be an integer; got '
                              f'{index!r}')
        if isinstance(peers, str):
            peers = [peers]
        if peers is not None and not (isinstance(peers, (list, tuple))
                                      and peers):
            raise ConfigError('distill.peers must name at least one branch; '
                              f'got {peers!r}')
        if layouts is not None and not isinstance(layouts, dict):
            raise ConfigError('distill.layouts must be a dict from branches '
                              f'to layouts; got {layouts!r}')
        for name, layout in (layouts or {}).items():
            check_choice(f'distill.layouts.{name}', layout, LAYOUTS)
        self.index = index
        self.peers = peers and list(peers)
        self.layouts = dict(layouts or {})

    def setup(self,
              names: Sequence[str],
              num_classes: int,
              feat_shapes: Optional[Dict[str, tuple]] = None) -> None:
        """Make the projections, see :meth:`BaseKDLoss.setup`. There must be a
        branch to follow, and settings must name branches and features that
        there are."""
        for setting in ('peers', 'layouts'):
            check_branches(f'distill.{setting}',
                           getattr(self, setting) or (), names)
        if len(names) < 2:
            raise ConfigError('model.distill.type FeatureKDLoss needs at '
                              f'least two branches; got {", ".join(names)}')
        channels = {}
        for name in names:
            shape = self._shape(name, feat_shapes[name])
            self.layouts.setdefault(name, guess_layout(shape))
            channels[name] = self._channels(name, shape)
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.projections = nn.ModuleDict({
            name: nn.ModuleDict({
                peer: _projection(channels[name], channels[peer], generator)
                for peer in self._peers_of(name, names)
            })
            for name in names
        })

    def _shape(self, name: str, shapes: Sequence[Any]) -> Tuple[int, ...]:
        """The shape of the feature that is compared."""
        if not -len(shapes) <= self.index < len(shapes):
            raise ConfigError(
                f'distill.index must be one of the {len(shapes)} features of '
                f'the backbone of model.branches.{name}; got {self.index}')
        shape = shapes[self.index]
        if not 1 <= len(shape) <= 3:
            raise ConfigError(
                f'model.branches.{name}: FeatureKDLoss compares features of '
                '2 to 4 dimensions; got one of the shape '
                f'{("N", *shape)}'.replace("'", ''))
        return shape

    def _channels(self, name: str, shape: Sequence[int]) -> int:
        layout = self.layouts[name]
        if len(shape) != LAYOUTS[layout]:
            raise ConfigError(
                f'distill.layouts.{name} must fit a feature of the shape '
                f'{("N", *shape)}'.replace("'", '') + f'; got {layout!r}')
        # The size of C in (C, H, W), (C, L) and (C, ), else the last one.
        return shape[-1 if layout in ('NHWC', 'tokens') else 0]

    def _peers_of(self, name: str, names: Sequence[str]) -> List[str]:
        return [peer for peer in self.peers or names if peer != name]

    def forward(self,
                logits: Tensor,
                targets: Tensor,
                feats: Dict[str, Tuple[Tensor, ...]],
                names: Sequence[str],
                alive: Optional[Tensor] = None) -> Tensor:
        """Compute the losses ``(B, )``, see :class:`BaseKDLoss`: 0 for a
        branch without a peer. Logits and targets are not looked at; of
        ``alive`` only that branches may be left out."""
        maps = {
            name: to_map(values[self.index], self.layouts[name])
            for name, values in feats.items()
        }
        finite = None
        if alive is not None:
            # Of what is not finite, even 0 times it is not.
            finite = {
                name: value.detach().isfinite().all()
                for name, value in maps.items()
            }
            maps = {
                name: torch.where(finite[name], value, 0.)
                for name, value in maps.items()
            }
        return torch.stack(
            [self._loss(name, maps, finite, logits) for name in names])

    def _loss(self, name: str, maps: Dict[str, Tensor],
              finite: Optional[Dict[str, Tensor]], logits: Tensor) -> Tensor:
        """The loss of one branch."""
        terms = []
        for peer, projection in self.projections[name].items():
            size = [
                min(sizes)
                for sizes in zip(maps[name].shape[2:], maps[peer].shape[2:])
            ]
            own, other = (
                F.adaptive_avg_pool2d(value, size).permute(0, 2, 3, 1)
                for value in (maps[name], maps[peer]))
            terms.append(feature_kd_loss(projection(own), other))
        if not terms:
            return logits.sum() * 0
        terms = torch.stack(terms)
        if finite is None:
            return terms.mean()
        flags = torch.stack([finite[peer] for peer in self.projections[name]])
        return torch.where(flags, terms, 0.).sum() / flags.sum().clamp(min=1)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        given = [f'index={self.index}']
        if self.peers:
            given.append(f'peers={self.peers!r}')
        return ', '.join(given + [f'layouts={self.layouts!r}'])


def _projection(inputs: int, outputs: int,
                generator: torch.Generator) -> nn.Linear:
    """A linear map that keeps the scale, by random numbers of its own."""
    layer = skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(0, inputs**-0.5, generator=generator)
        layer.bias.zero_()
    return layer
