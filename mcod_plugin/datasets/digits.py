"""Handwritten digits that need no download."""
from typing import List, Optional

import numpy as np
from mmpretrain.datasets import BaseDataset

from mcod_plugin.errors import ConfigError, check_choice
from mcod_plugin.registry import DATASETS

NATIVE_SIZE = 8
MAX_VALUE = 16


@DATASETS.register_module()
class Digits(BaseDataset):
    """The 1,797 handwritten digits that ship inside scikit-learn.

    They are the test part of E. Alpaydin and C. Kaynak's `Optical Recognition
    of Handwritten Digits`_ (UCI Machine Learning Repository, 1998): grey
    images of 8 by 8 pixels, 10 classes.
    Nothing is downloaded, and a small cohort learns them on a CPU within
    minutes, so they are for first steps and tests, not for results.

    The split is part of the data set: the samples are ordered by class, and
    every fifth one, 360 in all, is held out for testing. It depends on no
    seed, and each class keeps its share. The data do not tell the writers,
    so that the same hand may stand on both sides.

    It needs scikit-learn: ``pip install "mcod-plugin[quickstart]"``.

    .. _Optical Recognition of Handwritten Digits:
        https://archive.ics.uci.edu/dataset/80

    Args:
        split (str): ``'train'`` (1,437 images) or ``'test'`` (360 images).
            Defaults to ``'train'``.
        size (int): Height and width of the images, a multiple of 8: each
            pixel becomes a square, which leaves networks something to stride
            over. Defaults to 16.
        metainfo (dict, optional): Meta information of the data set, such as
            the names of the classes. Defaults to None.
        test_mode (bool): Whether an image that cannot be had is an error
            instead of being replaced. Defaults to False.
        **kwargs: Other keyword arguments of
            :class:`mmpretrain.datasets.BaseDataset`.

    Examples:
        >>> from mcod_plugin.datasets import Digits
        >>> digits = Digits(split='test')
        >>> len(digits), digits[0]['img'].shape, digits[0]['gt_label']
        (360, (16, 16, 3), 0)
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self,
                 split: str = 'train',
                 size: int = 16,
                 metainfo: Optional[dict] = None,
                 test_mode: bool = False,
                 **kwargs) -> None:
        check_choice('split of Digits', split, ('train', 'test'))
        if not isinstance(size, int) or size < 1 or size % NATIVE_SIZE:
            raise ConfigError('size of Digits must be a positive multiple of '
                              f'{NATIVE_SIZE}; got {size!r}')
        self.split = split
        self.size = size
        super().__init__(
            # there is no annotation file
            ann_file='',
            metainfo=metainfo,
            test_mode=test_mode,
            **kwargs)

    def load_data_list(self) -> List[dict]:
        """Load the images and labels of the split.

        Returns:
            List[dict]: One ``dict(img=..., gt_label=...)`` per image; ``img``
            is a uint8 array in shape ``(size, size, 3)``.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ConfigError(
                'the data set Digits needs scikit-learn, which cannot be '
                'imported; get it with: pip install '
                '"mcod-plugin[quickstart]"') from error
        digits = load_digits()

        by_class = np.argsort(digits.target, kind='stable')
        held_out = np.zeros(len(by_class), dtype=bool)
        held_out[by_class[::5]] = True
        chosen = held_out if self.split == 'test' else ~held_out

        images = np.rint(digits.images[chosen] * (255 / MAX_VALUE))
        images = images.astype(np.uint8)
        factor = self.size // NATIVE_SIZE
        images = images.repeat(factor, axis=1).repeat(factor, axis=2)
        images = images[..., None].repeat(3, axis=-1)
        return [
            dict(img=image, gt_label=int(label))
            for image, label in zip(images, digits.target[chosen])
        ]

    def extra_repr(self) -> List[str]:
        """The extra lines of the data set's description."""
        return [f'Split: \t{self.split}', f'Image size: \t{self.size}']
