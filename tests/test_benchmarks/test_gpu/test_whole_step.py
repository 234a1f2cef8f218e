"""What is to be done on a GPU first, tried at tiny size without one."""
import json
import re
import runpy
import sys

import pytest
import torch
from mmengine.config import Config

from ...tiny import ROOT, TINY

PATH = str(ROOT / 'benchmarks' / 'gpu' / 'whole_step.py')


@pytest.fixture
def tool(tmp_path, monkeypatch, capsys):
    """Is the tool, and gives its exit code and what it prints."""
    (tmp_path / 'cohort.py').write_text(TINY)
    monkeypatch.syspath_prepend(str(ROOT / 'tests'))

    def run(what, *args):
        monkeypatch.setattr(
            sys, 'argv',
            [PATH, what, str(tmp_path / 'cohort.py'), *args])
        code = 0
        try:
            runpy.run_path(PATH)['main']()
        except SystemExit as error:
            code = error.code
        return code, capsys.readouterr().out

    return run


def test_checks(tool):
    code, out = tool('check')
    assert code == 0, out
    assert len(re.findall(r'^[\w ]+: equal$', out, re.MULTILINE)) == 8
    assert 'of 24 steps 20 were replayed, of 2 kinds' in out
    assert 'recorded anew: True' in out and 'All is right.' in out


def test_a_check_can_fail(tmp_path, monkeypatch):
    """As if a graph had no learning rates."""
    monkeypatch.setattr(
        'mcod_plugin.engine.graph.device_numbers.DeviceNumbers.write',
        lambda numbers, values: None)
    monkeypatch.syspath_prepend(str(ROOT / 'tests'))
    (tmp_path / 'cohort.py').write_text(TINY)
    cfg = Config.fromfile(tmp_path / 'cohort.py')
    cfg.train_dataloader.batch_size = 4
    whole_step = runpy.run_path(PATH)
    trainings = [
        whole_step['Training'](cfg, way) for way in ('eager', 'graph')
    ]
    found = [(training.train(0, 8), training) for training in trainings]
    text = whole_step['differences'](*found)
    assert re.match(r'loss of step [3-7]: .* weights, branches\.\S+ by ', text)
    assert whole_step['differences'](found[0], found[0]) == 'equal'


@pytest.mark.parametrize('way', ['eager', 'graph+streams'])
def test_times(tool, way):
    code, out = tool('time', '--ways', way, '--steps', '1')
    assert code == 0
    result = json.loads(out.splitlines()[-1])
    assert result['way'] == way
    for phase in ('on', 'off'):
        found = result[phase]
        assert 0 < found['least'] <= found['ms'] <= found['most']
        assert 0 < found['host_ms'] <= found['most']


def test_launches(tool):
    code, out = tool('launches')
    assert code == 0
    counts = dict(line.split(': ') for line in out.splitlines()[-4:])
    single, eager, inside, outside = map(int, counts.values())
    # All batch norms of both networks count by one operation.
    norms = sum(
        isinstance(module, torch.nn.BatchNorm2d)
        for module in pair().modules())
    assert single - eager == norms - 1 > 10
    # Images and labels go in, and what is logged comes out.
    assert outside == 3 and inside == eager


def pair():
    from mcod_plugin.models.backbones import CifarResNet, CifarVGG
    return torch.nn.ModuleList(
        [CifarResNet(depth=8, width=4),
         CifarVGG(depth=11, width=4)])
