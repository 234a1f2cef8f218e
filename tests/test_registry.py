import subprocess
import sys

import pytest

# The registered names of the plugin, by the registry of MMEngine that a
# config reaches them from.
PARTS = dict(
    MODELS=[
        'MultiBackboneClassifier', 'EnsembleTeacher', 'DiscontinuousKDLoss',
        'CifarAlexNet', 'CifarResNet', 'CifarDenseNet',
        'BatchDataPreprocessor'
    ],
    DATASETS=['Digits', 'InMemoryDataset'],
    TRANSFORMS=['BranchViews'],
    HOOKS=['DiscontinuousKDHook', 'CohortRuntimeInfoHook'],
    OPTIM_WRAPPERS=['AutocastOptimWrapper'],
    OPTIM_WRAPPER_CONSTRUCTORS=['BranchOptimWrapperConstructor'],
    METRICS=['BranchMetrics'],
)

RESOLVE = """
import importlib, sys
from mmengine.registry import init_default_scope
toolbox, scope, names = sys.argv[1], sys.argv[2], sys.argv[3:]
if scope != 'none':
    init_default_scope(scope)
for path in names:
    registry, name = path.split('.')
    registries = importlib.import_module(toolbox + '.registry')
    registry = getattr(registries, registry)
    part = registry.get('mcod_plugin.' + name)
    assert part is not None, path
    assert part.__name__ == name
    assert part.__module__.startswith('mcod_plugin.'), part
    assert registry.get(name) is None, 'found without its scope: ' + path
"""

IMPORT = """
import sys
import mcod_plugin
assert mcod_plugin.__version__
print([name for name in ('torch', 'timm', 'mmengine') if name in sys.modules])
"""


def run_python(code, *args):
    """Run code where nothing of the plugin is imported yet."""
    return subprocess.run([sys.executable, '-c', code, *args],
                          capture_output=True,
                          text=True)


@pytest.mark.parametrize('toolbox, scope', [
    ('mmengine', 'none'),
    ('mmengine', 'mmengine'),
    ('mmengine', 'mmpretrain'),
    ('mmpretrain', 'mmpretrain'),
])
def test_parts_are_found_by_name(toolbox, scope):
    names = [
        f'{registry}.{name}' for registry in PARTS for name in PARTS[registry]
    ]
    done = run_python(RESOLVE, toolbox, scope, *names)
    assert done.returncode == 0, done.stderr


def test_import_of_the_package_is_light():
    done = run_python(IMPORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[]'


def test_schedule_needs_no_torch():
    done = run_python(
        IMPORT.replace('import mcod_plugin',
                       'import mcod_plugin, mcod_plugin.schedule'))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[]'
