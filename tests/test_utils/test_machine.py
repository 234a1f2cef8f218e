import datetime
import json
import shutil
import subprocess
import sys
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
    changes = git('status', '--porcelain', '--untracked-files=no', '--',
                  'mcod_plugin', 'configs', 'tools', 'benchmarks',
                  'setup.py').stdout
    assert found['dirty'] == bool(changes.strip())


def describe_in(folder):
    """The description that a copy of the package gives."""
    done = subprocess.run([
        sys.executable, '-c', 'import json; '
        'from mcod_plugin.utils import machine as it; '
        'print(it.__file__); print(json.dumps(it.describe_machine()))'
    ],
                          cwd=folder,
                          capture_output=True,
                          check=True,
                          text=True)
    file, found = done.stdout.splitlines()
    assert file.startswith(str(folder))
    return json.loads(found)


def test_commit_of_the_code_alone(tmp_path):

    def commit(*files):
        run('add', *files)
        run('-c', 'user.name=x', '-c', 'user.email=x@x', 'commit', '-qm', 'x')
        return run('rev-parse', 'HEAD').strip()

    def run(*args):
        return subprocess.run(['git', '-C', str(tmp_path), *args],
                              capture_output=True,
                              check=True,
                              text=True).stdout

    shutil.copytree(
        ROOT / 'mcod_plugin',
        tmp_path / 'mcod_plugin',
        ignore=shutil.ignore_patterns('__pycache__'))
    (tmp_path / 'docs').mkdir()
    report = tmp_path / 'docs' / 'results.md'
    report.write_text('no results yet')
    run('init', '-q')
    # A project into which the package was only installed is not its code.
    commit('docs')
    found = describe_in(tmp_path)
    assert (found['commit'], found['dirty']) == (None, None)
    head = commit('mcod_plugin')
    # A report that was just written makes no other code.
    report.write_text('results')
    found = describe_in(tmp_path)
    assert (found['commit'], found['dirty']) == (head, False)
    with open(tmp_path / 'mcod_plugin' / 'version.py', 'a') as file:
        file.write('# changed')
    found = describe_in(tmp_path)
    assert (found['commit'], found['dirty']) == (head, True)
