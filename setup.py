from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
version = {}
exec((ROOT / 'mcod_plugin' / 'version.py').read_text(), version)

quickstart = ['scikit-learn>=1.2']
compare = ['matplotlib>=3.7', 'scipy']

setup(
    name='mcod-plugin',
    version=version['__version__'],
    description='Collaborative online distillation of mixed cohorts of '
    'networks, as an MMPretrain plugin',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=('mcod_plugin', 'mcod_plugin.*')),
    python_requires='>=3.9',
    install_requires=[
        'torch>=2.1',
        'torchvision',
        'timm>=1.0',
        'mmengine>=0.11.0rc3,<1.0',
        'mmcv-lite>=2.1,<2.3',
        'mmpretrain>=1.2,<1.3',
        'numpy',
    ],
    extras_require={
        'quickstart': quickstart,
        'compare': compare,
        'tests': [*quickstart, *compare, 'hypothesis', 'pytest'],
        'viz': ['matplotlib', 'tensorboard'],
    },
    classifiers=[
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    license='Apache-2.0',
)
