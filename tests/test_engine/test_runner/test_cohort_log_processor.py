import logging
import sys

import pytest

from mcod_plugin.engine.runner.cohort_log_processor import (line_by_branch,
                                                            quieten)

NAMES = ['vgg', 'resnet', 'teacher', 'ensemble']


@pytest.mark.parametrize('text, lines', [
    ('Epoch(train)  [9][20/28]  lr: 1.0e-01 resnet.lr: 2.0e-02  eta: 0:05:19  '
     'loss: 2.1  resnet.loss_ce: 1.0  vgg.loss_ce: 1.1  teacher.loss_ce: 0.3  '
     'resnet.loss_kd: 0.2  kd_weight: 1.0  resnet_b.loss_ce: 4.0', [
         'Epoch(train)  [9][20/28]  lr: 1.0e-01  eta: 0:05:19  loss: 2.1  '
         'kd_weight: 1.0  resnet_b.loss_ce: 4.0',
         '    vgg.loss_ce: 1.1',
         '    resnet.lr: 2.0e-02  resnet.loss_ce: 1.0  resnet.loss_kd: 0.2',
         '    teacher.loss_ce: 0.3',
     ]),
    ('Epoch(val) [1][3/3]    ensemble/top1: 60.0  resnet/top1: 50.0  '
     'vgg/top1: 40.0  resnet/a/b: 1.0  diversity/disagreement: 0.3  time: 0.7',
     [
         'Epoch(val) [1][3/3]    diversity/disagreement: 0.3  time: 0.7',
         '    vgg/top1: 40.0',
         '    resnet/top1: 50.0  resnet/a/b: 1.0',
         '    ensemble/top1: 60.0',
     ]),
    ('Epoch(val) [1][ 3/10]  ', ['Epoch(val) [1][ 3/10]']),
    ('Epoch(test) [3/3]    vgg/matrix: \n[[1  2]\n [3  4]]\n',
     ['Epoch(test) [3/3]    vgg/matrix: ', '[[1  2]', ' [3  4]]']),
])
def test_line_by_branch(text, lines):
    assert line_by_branch(text, NAMES).splitlines() == lines


def test_quieten(tmp_path, capsys):
    """The log file has everything."""
    logger = logging.Logger('run')
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.addHandler(logging.FileHandler(tmp_path / 'log'))
    quieten(logger)
    told = ['Cohort:\n...', 'a Config:\n', 'x is skipped']
    repeated = [
        'Config:\na = 1', '\n------\nSystem environment:\n    a: 1',
        'paramwise_options -- branches.a.weight:lr=0.1',
        'branches.a.weight is skipped since its requires_grad=False'
    ]
    for text in [*told, *repeated]:
        logger.info('%s', text)
    out = capsys.readouterr().out
    assert out == ''.join(f'{text}\n' for text in told)
    written = (tmp_path / 'log').read_text()
    assert written == ''.join(f'{text}\n' for text in [*told, *repeated])
