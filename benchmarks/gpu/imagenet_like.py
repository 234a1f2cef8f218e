"""Make a folder like ImageNet's where there is none: for speeds, and nothing
else.

    python benchmarks/gpu/imagenet_like.py [--out FOLDER]

A few images of noise stand in ``FOLDER/train`` and ``FOLDER/val`` under many
names, as hard links, so that an epoch outlasts what loaders have ready. All
of it stays in the page cache: how fast a disk is cannot be seen.
"""
import os
import os.path as osp
import tempfile

import numpy as np
from PIL import Image

from mcod_plugin.cli import ToolParser, user_errors
from mcod_plugin.errors import ConfigError

CLASSES = 1000
# Images of a class.
SPLITS = dict(train=100, val=5)
DIFFERENT = 64
# The most frequent size of ImageNet's images.
HEIGHT, WIDTH = 375, 500
# With it they have 115 kB; ImageNet's 1,281,167 for training, 138 GB, have
# 108 on average.
QUALITY = 90
COLOUR = 0.2


def photograph(rng):
    """Noise whose spectrum falls like that of photographs, by 1/f, so that
    coding and decoding have as much to do.

    D. J. Field, Relations between the statistics of natural images and the
    response properties of cortical cells (JOSA A, 1987).

    Args:
        rng (np.random.Generator): Where the noise comes from.

    Returns:
        np.ndarray: The image ``(H, W, 3)`` in uint8.
    """
    frequencies = np.hypot(
        np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    # No mean.
    frequencies[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(4, HEIGHT, WIDTH))) / frequencies
    layers = np.fft.irfft2(spectrum, (HEIGHT, WIDTH))
    layers /= layers.std((1, 2), keepdims=True)
    # Mostly grey, as photographs are.
    image = layers[0] + COLOUR * layers[1:]
    image = np.clip(128 + 55 * image, 0, 255).astype(np.uint8)
    return np.moveaxis(image, 0, -1)


def make(folder):
    """Make the folder."""
    os.mkdir(folder)
    rng = np.random.default_rng(0)
    paths = [osp.join(folder, f'{number}.JPEG') for number in range(DIFFERENT)]
    for path in paths:
        Image.fromarray(photograph(rng)).save(path, 'JPEG', quality=QUALITY)
    for split, images in SPLITS.items():
        for label in range(CLASSES):
            place = osp.join(folder, split, f'{label:04}')
            os.makedirs(place)
            for number in range(images):
                source = paths[(label * images + number) % DIFFERENT]
                os.link(source, osp.join(place, f'{number}.JPEG'))
    for path in paths:
        os.remove(path)


def main():
    parser = ToolParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument(
        '--out',
        default='data/imagenet',
        help='the new folder (default: %(default)s)')
    args = parser.parse_args()
    out = osp.abspath(args.out)
    with user_errors():
        if osp.lexists(out):
            raise ConfigError(f'--out {out} is there already; name a new '
                              'folder')
        os.makedirs(osp.dirname(out), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=osp.dirname(out)) as beside:
            folder = osp.join(beside, 'images')
            make(folder)
            os.rename(folder, out)


if __name__ == '__main__':
    main()
