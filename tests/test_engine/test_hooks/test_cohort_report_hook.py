from dataclasses import replace

import pytest
from mmengine.hooks import Hook
from torch import nn

from mcod_plugin.engine.hooks.cohort_report_hook import (branch_table,
                                                         count_flops,
                                                         network_name)
from mcod_plugin.registry import MODELS, RUNNERS
from ...cells import cells


def test_train_prints_the_cohort_and_the_result(tiny_runner, tmp_path):
    runner = tiny_runner(epochs=3)
    runner.train()
    log = next(tmp_path.rglob('*.log')).read_text()
    parameters = sum(value.numel()
                     for value in runner.model.branches.parameters())
    assert f'{parameters:,}' in log.partition('Cohort:')[2]
    result = log.partition('Result after 3 epochs:\n')[2]
    rows = cells('\n'.join(result.split('\n')[:7]))
    assert rows[0] == ['', 'top-1 %', 'best top-1 %']
    assert [row[0] for row in rows[1:]] == ['resnet', 'vit', 'ensemble']
    hub = runner.message_hub
    for name, last, best in rows[1:]:
        history = hub.get_scalar(f'val/{name}/top1').data[0]
        assert last == f'{history[-1]:.2f}'
        assert best == f'{history.max():.2f} (epoch {history.argmax() + 1})'


def test_iterations_are_called_so(tiny_runner, tmp_path):
    runner = tiny_runner(
        train_cfg=dict(
            by_epoch=False, max_iters=5, val_interval=2, _delete_=True),
        custom_hooks=[
            dict(type='mcod_plugin.DiscontinuousKDHook', by_epoch=False)
        ])
    runner.train()
    log = next(tmp_path.rglob('*.log')).read_text()
    result = log.partition('Result after 5 iterations:\n')[2]
    history = runner.message_hub.get_scalar('val/vit/top1').data[0]
    # validations after 2, 4 and 5 iterations
    assert len(history) == 3
    best = cells('\n'.join(result.split('\n')[:7]))[2][2]
    step = (2, 4, 5)[history.argmax()]
    assert best == f'{history.max():.2f} (iteration {step})'


def test_best_of_a_run_that_an_older_version_has_begun(tiny_runner, tmp_path):
    runner = tiny_runner(epochs=2)
    runner.message_hub.update_info('cohort_best', dict(vit=(101., 7)))
    runner.train()
    log = next(tmp_path.rglob('*.log')).read_text()
    result = log.partition('Result after 2 epochs:\n')[2]
    best = {row[0]: row[2] for row in cells('\n'.join(result.split('\n')[:7]))}
    assert best['vit'] == '101.00 (epoch 7)'
    assert best['resnet'].endswith(('(epoch 1)', '(epoch 2)'))


NEVER = 'The branches are never distilled: custom_hooks has no '


@pytest.mark.parametrize('changes, told', [
    (dict(), False),
    ({
        'custom_hooks.0.weight': [0, 0]
    }, False),
    (dict(custom_hooks=None), True),
    (dict(custom_hooks=[dict(type='EMAHook')]), True),
    ({
        'custom_hooks': None,
        'model.branches.vit': None
    }, False),
])
def test_a_missing_schedule_is_warned_of(tiny_config, tmp_path, changes, told):
    cfg = tiny_config(epochs=1, **changes)
    if cfg.model.branches.vit is None:
        del cfg.model.branches['vit']
    RUNNERS.build(cfg).train()
    assert next(tmp_path.rglob('*.log')).read_text().count(NEVER) == told


def test_another_hook_that_writes_the_weight(tiny_config, tmp_path):
    """It distils, so that nothing is said of never."""

    class Writer(Hook):

        def before_train_iter(self, runner, *args, **kwargs):
            runner.model.kd_weight = 1.

    runner = RUNNERS.build(tiny_config(epochs=1, custom_hooks=None))
    runner.register_hook(Writer())
    runner.train()
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'never distilled' not in log and 'resnet.loss_kd' in log


def test_test_prints_the_result(tiny_runner, tmp_path):
    runner = tiny_runner()
    metrics = runner.test()
    log = next(tmp_path.rglob('*.log')).read_text()
    rows = cells('\n'.join(log.partition('Result:\n')[2].split('\n')[:7]))
    assert rows[3] == ['ensemble', f'{metrics["ensemble/top1"]:.2f}']
    share = 100 * metrics['diversity/disagreement']
    assert f'disagree on {share:.1f} % of the images' in log


def test_without_validation(tiny_runner, tmp_path):
    runner = tiny_runner(
        val_cfg=None, val_dataloader=None, val_evaluator=None)
    runner.train()
    assert 'Result' not in next(tmp_path.rglob('*.log')).read_text()


def test_branch_table(tiny_runner):
    model = tiny_runner().model
    rows = cells(branch_table(model))
    assert rows[0] == ['branch', 'network', 'parameters', 'FLOPs at 16x16']
    assert rows[1][:2] == ['resnet', 'CifarResNet']
    assert rows[2][:2] == ['vit', 'timm vit_tiny_patch16_224']
    for column in (2, 3):
        one, other, both = (
            int(row[column].replace(',', '')) for row in rows[1:])
        assert one + other == both > 0
    assert model.training


def test_branch_table_counts_at_each_branch_s_own_size(tiny_runner):
    model = tiny_runner().model
    usual = cells(branch_table(model))
    settings = model.branch_settings
    settings['resnet'] = replace(settings['resnet'], input_size=(32, 32))
    larger = cells(branch_table(model))
    assert larger[0][3] == 'FLOPs at 16x16, 32x32'
    flops = [int(rows[1][3].replace(',', '')) for rows in (usual, larger)]
    # nearly all of them are convolutions over four times as many positions
    assert 3.9 < flops[1] / flops[0] <= 4
    assert larger[2] == usual[2]


@pytest.mark.parametrize('training', [True, False])
def test_count_flops(training):
    # 8x8 positions, 3 input and 5 output channels, 3x3 kernel; then 320x7
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Flatten(),
        nn.Linear(320, 7, bias=False)).train(training)
    assert count_flops(network, (1, 3, 8, 8)) == 64 * 27 * 5 + 320 * 7
    assert network.training == training


def test_network_that_cannot_be_traced():

    class Picky(nn.Conv2d):

        def forward(self, x):
            raise RuntimeError('not with zeros')

    assert count_flops(Picky(3, 3, 1), (1, 3, 8, 8)) is None


@pytest.mark.parametrize('branch, name', [
    (dict(
        type='TimmClassifier', model_name='test_vit', num_classes=10),
     'timm test_vit'),
    (dict(
        backbone=dict(
            type='TIMMBackbone', model_name='vgg11_bn', features_only=True),
        head=dict(type='LinearClsHead', num_classes=10)), 'timm vgg11_bn'),
    (dict(
        backbone=dict(type='LeNet5', num_classes=10),
        head=dict(type='ClsHead')), 'LeNet5'),
])
def test_network_name(branch, name):
    size = 160 if 'model_name' in branch else 32
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            data_preprocessor=dict(mean=[0.], std=[1.])
            if name == 'LeNet5' else dict(),
            input_size=size,
            branches=dict(a=branch)))
    assert network_name(cohort.branches['a']) == name
