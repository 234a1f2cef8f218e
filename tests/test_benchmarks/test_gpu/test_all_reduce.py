"""What several processes send, counted by one that sends to itself."""
import runpy
import sys

import pytest
import torch.distributed as dist
from mmengine.config import Config

from mcod_plugin.registry import MODELS

from ...cells import cells
from ...tiny import ROOT, TINY

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')

PATH = str(ROOT / 'benchmarks' / 'gpu' / 'all_reduce.py')


def test_counts(tmp_path, monkeypatch, capsys):
    config = tmp_path / 'cohort.py'
    config.write_text(TINY)
    monkeypatch.setattr(sys, 'argv', [
        PATH,
        str(config), '--rounds', '1', '--steps', '1', '--vary',
        'model_wrapper_cfg.bucket_cap_mb=.05', '--vary', 'model.loss_weight=2.'
    ])
    variables = dict(
        RANK='0',
        WORLD_SIZE='1',
        LOCAL_RANK='0',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT='0')
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(PATH)['main']()
    assert not dist.is_initialized()
    header, *rows = cells(capsys.readouterr().out)
    assert header[:5] == ['settings', 'kd', 'differs', 'messages', 'MiB']
    found = {tuple(row[:2]): row[2:] for row in rows}
    model = MODELS.build(Config.fromfile(config).model)
    size = sum(value.nbytes for value in model.parameters()) / 2**20
    assert len(found) == 6
    for (name, _), (differs, messages, mib, *_) in found.items():
        assert float(mib) == pytest.approx(size, abs=.006)
        assert (float(differs) > 0) == ('loss_weight' in name)
        assert int(messages) == (3 if 'bucket' in name else 1)
