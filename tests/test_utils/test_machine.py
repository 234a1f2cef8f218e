import datetime
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mcod_plugin.utils.machine import LIBRARIES, describe_machine
from mcod_plugin.version import __version__

ROOT = Path(__file__).parents[2]


def git(*args):
    return subprocess.run(['git', '-C', str(ROOT), *args],
                          capture_output=True,
                          text=True)


def test_versions_and_date():
    found = describe_machine()
    assert found['versions'].pop('mcod_plugin') == __version__
    assert found['versions'].pop('python').startswith('3.')
    assert found['versions'] == {name: version(name) for name in LIBRARIES}
    age = datetime.datetime.now().astimezone(
    ) - datetime.datetime.fromisoformat(found['date'])
    assert abs(age.total_seconds()) < 60
    assert found['device']
    if torch.cuda.is_available():
        assert found['device'] == torch.cuda.get_device_name()


@pytest.mark.skipif(
    git('rev-parse').returncode != 0, reason='for a repository')
def test_commit():
    found = describe_machine()
    assert found['commit'] == git('rev-parse', 'HEAD').stdout.strip()
    changes = git('status', '--porcelain', '--untracked-files=no').stdout
    assert found['dirty'] == bool(changes.strip())
