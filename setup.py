import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
version = {}
exec((ROOT / 'mcod_plugin' / 'version.py').read_text(), version)

quickstart = ['scikit-learn>=1.2']
compare = ['matplotlib>=3.7', 'scipy']
export = ['safetensors', 'onnx', 'onnxruntime']
publish = [
    'huggingface_hub', 'jinja2', 'matplotlib>=3.7', 'pyyaml', 'safetensors'
]


class BuildWithConfigs(build_py):
    """Builds the package with the configs, the tools and the model index in
    its folder ``.mim``, where MMPretrain has its own."""

    def run(self):
        super().run()
        # An editable install finds them beside the package.
        if getattr(self, 'editable_mode', False):
            return
        home = Path(self.build_lib, 'mcod_plugin', '.mim')
        # What an earlier build has left may be out of date.
        shutil.rmtree(home, ignore_errors=True)
        for folder in ('configs', 'tools'):
            shutil.copytree(
                ROOT / folder,
                home / folder,
                ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(ROOT / 'model-index.yml', home)


setup(
    name='mcod-plugin',
    version=version['__version__'],
    description='Collaborative online distillation of mixed cohorts of '
    'networks, as an MMPretrain plugin',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=('mcod_plugin', 'mcod_plugin.*')),
    # The template of model cards.
    package_data={'mcod_plugin.publish': ['*.md']},
    cmdclass=dict(build_py=BuildWithConfigs),
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.1',
        'torchvision>=0.16',
        'timm>=1.0.16',
        'mmengine>=0.11.0rc3,<1.0',
        'mmcv-lite>=2.1,<2.3',
        'mmpretrain>=1.2,<1.3',
        'numpy>=1.23.5',
    ],
    extras_require={
        'quickstart': quickstart,
        'compare': compare,
        'export': export,
        'publish': publish,
        'tests': [
            *quickstart, *compare, *export, *publish, 'hypothesis', 'pytest',
            'pytest-xdist'
        ],
        'docs': [
            'mkdocs>=1.6,<2', 'mkdocs-material', 'mkdocs-same-dir',
            'mkdocstrings[python]'
        ],
        'viz': ['matplotlib', 'tensorboard'],
    },
    classifiers=[
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    license='Apache-2.0',
)
