import glob
import os.path as osp

import pytest
import torch
from mmengine.hooks import Hook

import mcod_plugin
from mcod_plugin.registry import RUNNERS
from mcod_plugin.utils.machine import describe_machine


def names(folder):
    return sorted(map(osp.basename, glob.glob(f'{folder}/*.pth')))


def test_best_of_every_branch_and_of_the_ensemble(tiny_runner):
    runner = tiny_runner(epochs=3)
    runner.train()
    found = [
        name.rpartition('_epoch_')[0] for name in names(runner.work_dir)
        if name.startswith('best')
    ]
    assert found == [
        'best_ensemble_top1', 'best_resnet_top1', 'best_vit_top1'
    ]
    for name, (_, epoch) in runner.message_hub.get_info(
            'cohort_best').items():
        assert f'best_{name}_top1_epoch_{epoch}.pth' in names(runner.work_dir)


def test_checkpoints_hold_data_only(tiny_runner):
    runner = tiny_runner()
    runner.train()
    files = glob.glob(f'{runner.work_dir}/*.pth')
    assert len(files) == 5
    for file in files:
        checkpoint = torch.load(file, weights_only=True)
        assert checkpoint['state_dict'].keys() == runner.model.state_dict(
        ).keys()
        meta = checkpoint['meta']
        assert meta['mcod_plugin_version'] == mcod_plugin.__version__
        machine = describe_machine()
        for key in ('commit', 'versions', 'device'):
            assert meta['machine'][key] == machine[key]
        assert meta['seed'] == 3 and meta['dataset_meta']['classes'][3] == '3'
    assert not glob.glob(f'{runner.work_dir}/*.part')


def test_message_hub_comes_back_as_it_was(tiny_runner):
    runner = tiny_runner('a')
    runner.train()
    resumed = tiny_runner('a', 3, resume=True)
    resumed.train()
    for key in ('train/loss', 'train/resnet.loss_ce', 'train/kd_weight'):
        before = runner.message_hub.get_scalar(key).data[0]
        after = resumed.message_hub.get_scalar(key).data[0]
        assert len(after) == 12
        assert (after[:8] == before).all()


@pytest.mark.parametrize('scheduler', [
    dict(type='OneCycleLR', eta_max=.1, total_steps=12),
    dict(type='OneCycleLR', eta_max=.1, total_steps=12, three_phase=True),
    dict(type='ReduceOnPlateauLR', monitor='ensemble/top1', rule='greater'),
])
def test_schedulers_go_on(tiny_runner, scheduler):
    """Some keep functions, which are no data."""
    by_epoch = scheduler['type'].startswith('Reduce')
    changes = dict(
        param_scheduler=[dict(scheduler, by_epoch=by_epoch, end=12)])

    class Rates(Hook):

        def __init__(self):
            self.found = []

        def after_train_iter(self, runner, *args, **kwargs):
            self.found.append(runner.optim_wrapper.get_lr()['lr'][0])

    def rates(*args, **kwargs):
        runner = tiny_runner(*args, **kwargs, **changes)
        hook = Rates()
        runner.register_hook(hook)
        runner.train()
        return hook.found

    expected = rates('unbroken', 3)
    rates('resumed', 1)
    assert rates('resumed', 3, resume=True) == expected[4:]


def test_objects_in_the_message_hub_do_not_end_a_run(tiny_runner, tmp_path):

    class Litter(Hook):

        def before_train(self, runner):
            runner.message_hub.update_info('litter', object())

    runner = tiny_runner()
    runner.register_hook(Litter())
    runner.train()
    checkpoint = torch.load(
        f'{runner.work_dir}/epoch_2.pth', weights_only=True)
    assert 'litter' not in checkpoint['message_hub']['runtime_info']
    assert '"litter" of the message hub' in next(
        tmp_path.rglob('*.log')).read_text()
    tiny_runner(epochs=3, resume=True).train()


@pytest.mark.parametrize('save_best, expected', [
    ('vit/top1', ['best_vit_top1']),
    (['ensemble/top1', 'vit/top1'], ['best_ensemble_top1', 'best_vit_top1']),
])
def test_explicit_choice_wins(tiny_runner, save_best, expected):
    runner = tiny_runner(**{'default_hooks.checkpoint.save_best': save_best})
    runner.train()
    found = [
        name.rpartition('_epoch_')[0] for name in names(runner.work_dir)
        if name.startswith('best')
    ]
    assert found == expected


@pytest.mark.parametrize('evaluator, expected, missing', [
    (dict(type='Accuracy'), [],
     ['ensemble/top1', 'resnet/top1', 'vit/top1']),
    (dict(type='mcod_plugin.BranchMetrics', topk=(5, )), [],
     ['ensemble/top1', 'resnet/top1', 'vit/top1']),
    (dict(type='Accuracy', prefix='ensemble'), ['best_ensemble_top1'],
     ['resnet/top1', 'vit/top1']),
])
def test_best_by_the_metrics_that_there_are(tiny_config, tmp_path, evaluator,
                                            expected, missing):
    cfg = tiny_config()
    cfg.val_evaluator = evaluator
    runner = RUNNERS.build(cfg)
    runner.train()
    found = names(runner.work_dir)
    assert 'epoch_2.pth' in found
    assert [
        name.rpartition('_epoch_')[0] for name in found
        if name.startswith('best')
    ] == expected
    log = next(tmp_path.rglob('*.log')).read_text()
    assert log.count(f'No best checkpoint by {", ".join(missing)}: ') == 1


def test_metric_that_was_asked_for_must_be_there(tiny_runner):
    runner = tiny_runner(
        **{'default_hooks.checkpoint.save_best': 'vit/top5'})
    with pytest.raises(KeyError, match='vit/top5'):
        runner.train()


def test_interrupted_save_leaves_the_old_checkpoint(tiny_runner, monkeypatch):
    runner = tiny_runner('a', 1)
    runner.train()
    file = osp.join(runner.work_dir, 'epoch_1.pth')
    with open(file, 'rb') as stream:
        before = stream.read()

    def fail(*args, **kwargs):
        raise OSError('disk full')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        runner.save_checkpoint(runner.work_dir, 'epoch_1.pth')
    with open(file, 'rb') as stream:
        assert stream.read() == before
