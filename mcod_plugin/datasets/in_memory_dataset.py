import copy
from functools import cached_property
from typing import Any, List, Optional, Sequence, Tuple, Union

import mmcv
import numpy as np
import torch
from mmcv.transforms import (CenterCrop, LoadImageFromFile, RandomFlip, Resize,
                             TestTimeAug)
from mmengine.dataset import Compose, default_collate
from mmengine.device import get_device
from mmengine.logging import print_log
from mmpretrain.datasets import PackInputs, RandomCrop, ResizeEdge
from mmpretrain.registry import DATASETS as MMPRETRAIN_DATASETS
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from mcod_plugin.config.explain import arguments
from mcod_plugin.config.parts import is_part, walk
from mcod_plugin.errors import (ConfigError, check_choice, check_names,
                                check_number, one_line)
from mcod_plugin.registry import DATASETS
from mcod_plugin.structures import BatchDataSample
from mcod_plugin.utils.machine import GIB, free_memory
from .batch_transforms import crop, random_flip, random_windows, to_device
from .branch_views import BranchViews
from .split import LABELS, check_per_class, select_images

# What it takes and MMPretrain's data sets do not, or for something else:
# first the settings of a part.
PART_KEYS = ('label', 'classes', 'per_class')
OWN_KEYS = ('source', 'device', 'max_gib', 'views', *PART_KEYS)

# What gives the same image every time is done once, at the start.
FIXED_TRANSFORMS = (LoadImageFromFile, Resize, ResizeEdge, CenterCrop)
FLIPS = dict(horizontal=(2, ), vertical=(1, ), diagonal=(1, 2))


@DATASETS.register_module()
class InMemoryDataset(Dataset):
    """A data set of MMPretrain, held in one tensor and served by the batch.

    All images are loaded once, into a uint8 tensor on the GPU if there is
    one. A batch is then indexed, cropped and flipped as a whole, by the same
    distribution as the pipeline would sample by sample. It takes
    ``collate_fn=dict(type='mcod_plugin.batch_collate')`` and a
    :class:`BatchDataPreprocessor`, which is the cohort's own.

    The pipeline may hold, in this order:

    - ``LoadImageFromFile``, ``Resize``, ``ResizeEdge``, ``CenterCrop``, after
      which all images must be of one size;
    - ``RandomCrop``;
    - ``RandomFlip``;
    - ``PackInputs``, or ``TestTimeAug``, which makes the versions of an image
      one by one.

    Anything else is for MMPretrain's loader: use the data set as it is.

    A wrapper such as ``ConcatDataset`` asks for the images one by one. They
    go through :attr:`pipeline` on the CPU then, where images on a GPU are
    copied to once: a wrapped data set had better say ``device='cpu'``.

    Args:
        source (str): The ``type`` of MMPretrain's data set.
        pipeline (Sequence[dict]): Its transforms, see above.
        device (str): Where the images stay: ``'cpu'``, ``'cuda'``, or
            ``'auto'`` for the GPU if there is one with twice the room that
            they need. Defaults to ``'auto'``.
        max_gib (float): The most memory that the images may take, in GiB.
            Defaults to 4.
        per_class (tuple[int, int | None], optional): ``(start, stop)``: of
            each class only the images number start (0-based) to stop, which
            is excluded, in the order of the data; a stop of None takes all
            that follow. So ``(0, 400)`` and ``(400, 500)`` part the training
            images of CIFAR-100 into balanced ones for training and for
            validation. It does not go with ``indices``. Defaults to None,
            all images.
        label (str): ``'fine'`` for the labels of MMPretrain's data set,
            ``'coarse'`` for the 20 superclasses of CIFAR-100, whose names are
            those of the data. Defaults to ``'fine'``.
        classes (str | Sequence[str | int], optional): Names or numbers of the
            classes to take, by the ``label`` that is set, or a file with a
            name in each line. Labels are renumbered from 0 in this order, and
            ``per_class`` counts within them; ``num_classes`` of the heads and
            of the preprocessor is their number. MMPretrain's data sets
            rename their classes by it: for that, set
            ``metainfo=dict(classes=...)``. Data that know no names of their
            classes get them by it, as in MMPretrain. Defaults to None, all
            classes.
        views (bool | Sequence[str]): Whether each branch of the cohort is
            given a view of its own of the images: cropped and flipped by
            random numbers of its own. They are for training. True takes the
            names of the branches from :class:`CohortRunner`; other runners
            need them here. Random numbers are drawn in the order of the
            names, so that the order of the branches does not matter.
            Defaults to False.
        **kwargs: All other arguments of MMPretrain's data set.

    Attributes:
        images (Tensor): The images ``(N, H, W, C)``, with the padding of
            ``RandomCrop`` if there is one.
        labels (Tensor): The labels ``(N, )``.
        metainfo (dict): The meta information of the data set, with the names
            of the classes that are taken.
        pipeline (Compose): What one image goes through at random; batches do
            without.
        views (tuple[str]): The branches that have views of their own.

    Raises:
        ConfigError: If the pipeline holds something else, the images differ
            in size, there is too little memory, there is no such label or
            class, a class has fewer images than ``per_class`` asks for, or
            there cannot be views.

    Examples:
        >>> train_dataloader = dict(
        ...     collate_fn=dict(type='mcod_plugin.batch_collate'),
        ...     dataset=dict(
        ...         type='mcod_plugin.InMemoryDataset', source='CIFAR100',
        ...         data_root='data', split='train', pipeline=[
        ...             dict(type='RandomCrop', crop_size=32, padding=4),
        ...             dict(type='RandomFlip', prob=0.5),
        ...             dict(type='PackInputs')]),
        ...     ...)
    """

    def __init__(self,
                 source: str,
                 pipeline: Sequence[dict],
                 device: str = 'auto',
                 max_gib: float = 4,
                 per_class: Optional[Sequence[Optional[int]]] = None,
                 label: str = 'fine',
                 classes: Union[str, Sequence[Union[str, int]], None] = None,
                 views: Union[bool, Sequence[str]] = False,
                 **kwargs) -> None:
        check_choice('device of InMemoryDataset', device,
                     ('auto', 'cpu', 'cuda'))
        if device == 'cuda' and not torch.cuda.is_available():
            raise ConfigError('device of InMemoryDataset is cuda, but this '
                              'machine has none; use auto or cpu')
        check_number('max_gib of InMemoryDataset', max_gib, 0, exclusive=True)
        if per_class is not None:
            check_per_class('per_class of InMemoryDataset', per_class)
            if kwargs.get('indices') is not None:
                raise ConfigError(
                    'InMemoryDataset takes per_class or indices, not both; '
                    f'got {per_class!r} and {kwargs["indices"]!r}')
        check_choice('label of InMemoryDataset', label, LABELS)
        self.views = _view_names(views, kwargs.get('test_mode', False))
        settings = dict(kwargs, type=source, pipeline=pipeline)
        if 'serialize_data' in arguments(MMPRETRAIN_DATASETS.get(source)):
            # Its own copy of the data is read once and then dropped, so that
            # it need not be pickled for workers to share.
            settings.setdefault('serialize_data', False)
        dataset = MMPRETRAIN_DATASETS.build(settings)
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        steps = list(dataset.pipeline.transforms)
        self._versions = steps.pop() if steps and isinstance(
            steps[-1], TestTimeAug) else None
        fixed, self._crop, self._flip = split_pipeline(steps)
        steps = [
            step for step in (self._crop, self._flip, self._versions
                              or PackInputs()) if step is not None
        ]
        if self.views:
            steps = [BranchViews(dict.fromkeys(self.views, steps))]
        self.pipeline = Compose(steps)
        self.metainfo = dataset.metainfo
        self.source = source
        self._max_gib = max_gib
        part = dict(label=label, classes=classes, per_class=per_class)
        if takes_part(part):
            numbers, labels = self._select(dataset, part)
            images, _ = self._read(dataset, fixed, numbers)
        else:
            images, labels = self._read(dataset, fixed, range(len(dataset)))
        place = self._place(device, images.numel())
        self.images, self.labels = images.to(place), labels.to(place)
        if self._crop is None:
            self._size = tuple(images.shape[1:3])
        else:
            self._size = tuple(self._crop.crop_size)
            if min(np.subtract(images.shape[1:3], self._size)) < 0:
                raise ConfigError(
                    f'crop_size of RandomCrop is {self._size}, but the images '
                    f'of {source} are {tuple(images.shape[1:3])} with their '
                    'padding')
        print_log(f'{source}: {self} in memory', logger='current')

    def _select(self, dataset: Any, part: dict) -> Tuple[List[int], Tensor]:
        """The numbers of the images of a part, and their labels there."""
        labels = np.array([
            self._label(dataset.get_data_info(index), index)
            for index in range(len(dataset))
        ], np.int64)
        try:
            numbers, labels, names = select_images(dataset, labels, **part)
        except ConfigError as error:
            raise ConfigError(f'{self.source}: {error}') from error
        if names is not None:
            self.metainfo = dict(self.metainfo, classes=names)
        return numbers.tolist(), torch.from_numpy(labels)

    def _read(self, dataset: Any, fixed: Sequence,
              numbers: Sequence[int]) -> Tuple[Tensor, Tensor]:
        """Load the images of those numbers, padded, and their labels."""
        images, labels = None, np.empty(len(numbers), dtype=np.int64)
        console = Console()
        for row, index in enumerate(
                track(
                    numbers,
                    f'Loading {self.source}',
                    console=console,
                    transient=True,
                    disable=not console.is_terminal)):
            data = dataset.get_data_info(index)
            label, path = self._label(data, index), data.get('img_path')
            try:
                for transform in fixed:
                    data = transform(data)
                image = data['img']
            except Exception as error:
                raise ConfigError(
                    f'{self.source}: image {index}, {path}, cannot be '
                    f'loaded: {one_line(error)}') from error
            image = self._pad(image)
            if images is None:
                shape = (len(numbers), *image.shape)
                self._check_room(shape)
                images = np.empty(shape, dtype=np.uint8)
            if image.dtype != np.uint8:
                raise ConfigError(
                    f'{self.source}: image {index} is of {image.dtype}, but '
                    'InMemoryDataset holds uint8, pixels from 0 to 255; '
                    'convert the files, or take the data set as it is '
                    f'(type={self.source!r})')
            if image.shape != images.shape[1:]:
                raise ConfigError(
                    f'{self.source}: image {index} is {image.shape}, the '
                    f'first one {images.shape[1:]}; InMemoryDataset needs '
                    'images of one size, which Resize and CenterCrop in the '
                    'pipeline can give')
            images[row], labels[row] = image, label
        if images is None:
            raise ConfigError(f'{self.source} is empty')
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _label(self, data: dict, index: int) -> int:
        label = data.get('gt_label')
        if not isinstance(label, (int, np.integer)):
            raise ConfigError(
                f'{self.source}: InMemoryDataset is for images of one '
                f'label; image {index} has {label!r}')
        return label

    def _pad(self, image: np.ndarray) -> np.ndarray:
        image = np.atleast_3d(image)
        if self._crop is not None and self._crop.padding is not None:
            image = mmcv.impad(
                image,
                padding=self._crop.padding,
                pad_val=self._crop.pad_val)
        # OpenCV drops the axis of a single channel.
        return np.atleast_3d(image)

    def _check_room(self, shape: Sequence[int]) -> None:
        """Raise unless there is room for the images."""
        need = np.prod(shape, dtype=float) / GIB
        advice = ('take fewer or smaller images, or the data set as it is '
                  f'(type={self.source!r})')
        text = f'{self.source} takes {need:.3g} GiB in memory'
        if need > self._max_gib:
            raise ConfigError(f'{text}, but max_gib of InMemoryDataset is '
                              f'{self._max_gib:g}; raise it, {advice}')
        free = free_memory(torch.device('cpu')) / GIB
        if need > free:
            raise ConfigError(f'{text}, but {free:.3g} are free; {advice}')

    def _place(self, device: str, need: int) -> torch.device:
        """Where the images shall stay."""
        if device == 'auto':
            # Another kind of accelerator gets batches from the CPU.
            device = 'cpu'
            if get_device() == 'cuda' and need < free_memory(
                    torch.device('cuda')) / 2:
                device = 'cuda'
        elif device == 'cuda' and need > free_memory(torch.device('cuda')):
            raise ConfigError(
                f'{self.source} takes {need / GIB:.3g} GiB, which the GPU '
                'has not free; use device="cpu"')
        if device == 'cuda':
            return torch.device('cuda', torch.cuda.current_device())
        return torch.device('cpu')

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> dict:
        """A batch, augmented.

        Args:
            indices (Sequence[int]): The numbers of its images; B of them.

        Returns:
            dict: ``inputs``, a uint8 tensor ``(B, C, H, W)``, by branch if
            there are :attr:`views`, and ``data_samples``, a
            :class:`BatchDataSample` with ``gt_label`` and ``sample_idx``.
            With ``TestTimeAug``, a list for each: by version the images
            ``(B, C, H, W)`` and their ``DataSample``.
        """
        if self._versions is not None:
            return default_collate([self[int(index)] for index in indices])
        numbers = torch.as_tensor(indices)
        number = len(numbers)
        # All views are made at once, as more images.
        rows = [numbers.repeat(len(self.views) or 1)]
        if self._crop is not None:
            rows += random_windows(
                len(rows[0]), self.images.shape[1:3], self._size)
        # In one transfer.
        chosen, *place = to_device(torch.stack(rows), self.images.device)
        if place:
            batch = crop(self.images, chosen, *place, self._size)
        else:
            batch = self.images.index_select(0, chosen)
        if self._flip is not None:
            batch = random_flip(batch, self._flip.prob,
                                FLIPS[self._flip.direction])
        # Contiguous: MMPretrain's own preprocessor would hand channels_last
        # on to a classifier that stands alone, whose gradients may be wrong
        # in it, see choose_memory_format.
        inputs = batch.permute(0, 3, 1, 2).contiguous()
        if self.views:
            inputs = dict(zip(self.views, inputs.split(number)))
        return dict(
            inputs=inputs,
            data_samples=BatchDataSample(
                gt_label=self.labels.index_select(0, chosen[:number]),
                sample_idx=numbers))

    def __getitem__(self, index: int) -> dict:
        """One image, augmented, as MMPretrain's data sets give it.

        Args:
            index (int): Its number.

        Returns:
            dict: ``inputs``, a uint8 tensor ``(C, H, W)``, by branch if
            there are :attr:`views`, and ``data_samples``, a ``DataSample``.
        """
        return self.pipeline(self.get_data_info(index))

    def get_data_info(self, idx: int) -> dict:
        """One image as it was loaded, without padding.

        Args:
            idx (int): Its number.

        Returns:
            dict: ``img``, a uint8 array ``(H, W, C)``, ``gt_label`` and
            ``sample_idx``.
        """
        # CUDA gives no IndexError, which ends an iteration.
        idx = range(len(self))[idx]
        left, top, right, bottom = borders(
            None if self._crop is None else self._crop.padding)
        height, width = self.images.shape[1:3]
        images, labels = self._on_cpu
        image = images[idx, top:height - bottom, left:width - right]
        return dict(
            # A copy: transforms may write into it.
            img=image.numpy().copy(),
            gt_label=int(labels[idx]),
            sample_idx=idx)

    @cached_property
    def _on_cpu(self) -> Tuple[Tensor, Tensor]:
        """Images and labels, copied once: each by itself would have the GPU
        waited for."""
        return self.images.cpu(), self.labels.cpu()

    def full_init(self) -> None:
        """Nothing; MMPretrain's wrappers of data sets call it."""

    def get_subset(self, indices: Union[int, Sequence[int]]
                   ) -> 'InMemoryDataset':
        """Some of the images, as :class:`KFoldDataset` asks for them.

        Args:
            indices (int | Sequence[int]): Their numbers; an integer stands
                for so many at the beginning, a negative one at the end.

        Returns:
            InMemoryDataset: A data set that holds these only.
        """
        if isinstance(indices, int):
            rows = torch.arange(len(self))
            rows = rows[:indices] if indices >= 0 else rows[indices:]
        else:
            rows = torch.as_tensor(indices, dtype=torch.int64)
        rows = rows.to(self.images.device)
        subset = copy.copy(self)
        subset.images = self.images.index_select(0, rows)
        subset.labels = self.labels.index_select(0, rows)
        # It is of all images, if it was asked for.
        vars(subset).pop('_on_cpu', None)
        return subset

    def get_gt_labels(self) -> np.ndarray:
        """The labels of all images.

        Returns:
            np.ndarray: The labels ``(N, )``.
        """
        return self.labels.cpu().numpy()

    def get_cat_ids(self, idx: int) -> List[int]:
        """The labels of one image.

        Args:
            idx (int): Its number.

        Returns:
            list[int]: Its one label.
        """
        return [int(self._on_cpu[1][idx])]

    @property
    def CLASSES(self) -> Optional[Sequence[str]]:
        """The names of the classes, as MMPretrain's tools ask for them."""
        return self.metainfo.get('classes')

    def __repr__(self) -> str:
        number, height, width, _ = self.images.shape
        return (f'{number:,} images of {height}x{width}, '
                f'{self.images.numel() / GIB * 1024:.0f} MiB on '
                f'{self.images.device}')


def _view_names(views: Any, test_mode: bool) -> Tuple[str, ...]:
    """The names that ``views`` stands for, in their order."""
    if views is True:
        raise ConfigError(
            'views=True of InMemoryDataset takes the names of the branches '
            'from mcod_plugin.CohortRunner, for train_dataloader; elsewhere '
            'list them')
    if views is False:
        return ()
    check_names('views of InMemoryDataset', views,
                'be True, False or a list of the names of all branches')
    if test_mode:
        raise ConfigError('views of InMemoryDataset are for training, and it '
                          'has test_mode=True')
    return tuple(sorted(views))


def takes_part(cfg: dict) -> bool:
    """Whether labels or images of an ``InMemoryDataset`` are others than those
    of its source, by its ``label``, ``classes`` or ``per_class``."""
    return cfg.get('label', 'fine') != 'fine' or any(
        cfg.get(key) is not None for key in ('classes', 'per_class'))


def is_in_memory(cfg: Any) -> bool:
    """Whether a data set, or one that it wraps, is an ``InMemoryDataset``, by
    its config or that of its loader."""
    return any(is_part(part, InMemoryDataset) for _, part in walk(cfg))


def borders(
        padding: Optional[Union[int, Sequence[int]]]
) -> Tuple[int, int, int, int]:
    """The widths left, top, right and bottom that a ``padding`` of
    ``RandomCrop`` stands for: one width in pixels, left and right and then top
    and bottom, or all four."""
    if padding is None:
        return 0, 0, 0, 0
    if isinstance(padding, int):
        return (padding, ) * 4
    return tuple(padding) * 2 if len(padding) == 2 else tuple(padding)


def split_pipeline(
    transforms: Sequence
) -> Tuple[List, Optional[RandomCrop], Optional[RandomFlip]]:
    """The transforms of a pipeline that give the same image every time, its
    ``RandomCrop`` and its ``RandomFlip``; None for what it has not. Raise if
    it holds something else, or in another order."""
    rest = list(transforms)
    fixed = []
    while rest and type(rest[0]) in FIXED_TRANSFORMS:
        fixed.append(rest.pop(0))
    crop = rest.pop(0) if rest and type(rest[0]) is RandomCrop else None
    flip = rest.pop(0) if rest and type(rest[0]) is RandomFlip else None
    if rest and type(rest[0]) is PackInputs:
        rest.pop(0)
    if rest:
        fixed_names = ', '.join(kind.__name__ for kind in FIXED_TRANSFORMS)
        raise ConfigError(
            f'pipeline.{len(transforms) - len(rest)} of InMemoryDataset, '
            f'{type(rest[0]).__name__}, cannot stand there; allowed are, in '
            f'this order, {fixed_names}, RandomCrop, RandomFlip, PackInputs; '
            'for other transforms use the data set as it is '
            '(type=<source> and collate_fn default_collate)')
    if crop is not None and crop.pad_if_needed:
        raise ConfigError('pad_if_needed of RandomCrop is not supported by '
                          'InMemoryDataset; set padding')
    if flip is not None and (isinstance(flip.prob, list)
                             or not isinstance(flip.direction, str)):
        raise ConfigError(
            'RandomFlip in an InMemoryDataset takes one prob and one '
            f'direction; got {flip.prob} and {flip.direction}')
    return fixed, crop, flip
