"""A run on images of several labels, and what is made of it."""
import json
import pickle
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.evaluation import AveragePrecision

from mcod_plugin.compare.plan import plan
from mcod_plugin.compare.study import read_study
from mcod_plugin.config.read import read_config
from mcod_plugin.config.tta import use_tta
from mcod_plugin.datasets import Digits
from mcod_plugin.engine.hooks.label_check_hook import (check_one_label,
                                                       label_bounds)
from mcod_plugin.errors import ConfigError
from mcod_plugin.export import export_branches, report
from mcod_plugin.publish import publish_cohort
from mcod_plugin.registry import RUNNERS

CONFIG = """\
_base_ = {base!r}
head = dict(type='MultiLabelLinearClsHead', num_classes=5)
model = dict(
    branches=dict(
        _delete_=True,
        csra=dict(
            backbone=dict(
                type='ResNet_CIFAR', depth=18, stem_channels=4,
                base_channels=4),
            neck=None,
            head=dict(
                type='CSRAClsHead', num_classes=5, num_heads=1, lam=.1,
                in_channels=32)),
        timm=dict(
            backbone=dict(
                type='TIMMBackbone', model_name='resnet18.a1_in1k',
                channels=(4, 4, 8, 8)),
            head=head),
        plain=dict(type='torchvision.models.shufflenet_v2_x0_5',
                   num_classes=5)))
data_preprocessor = dict(num_classes=5, to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False,
    collate_fn=dict(_delete_=True, type='default_collate'),
    dataset=dict(
        _delete_=True, type='MultiLabelDataset', data_root='data',
        ann_file='train.json', pipeline=pipeline))
val_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False,
    collate_fn=dict(_delete_=True, type='default_collate'),
    dataset=dict(
        _delete_=True, type='MultiLabelDataset', data_root='data',
        ann_file='val.json', pipeline=pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True, type='mcod_plugin.BranchMetrics',
    metric=[dict(type='MultiLabelMetric', thr=.5),
            dict(type='AveragePrecision')])
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2)
# Too short for a weight that grows.
custom_hooks = [
    dict(type='mcod_plugin.DiscontinuousKDHook', gap=(1, 0), weight=(1., 1.))
]
"""
NAMES = ('ensemble', 'csra', 'timm', 'plain')


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder with images of digits, whose labels are those of 0 to 4 that
    divide them or are above them: none, one or several."""
    folder = tmp_path_factory.mktemp('several')
    data = Digits(split='test', indices=64)
    (folder / 'data').mkdir()
    rows = []
    for index in range(64):
        item = data.get_data_info(index)
        mmcv.imwrite(item['img'], str(folder / f'data/{index}.png'))
        digit = item['gt_label']
        labels = [c for c in range(5) if c and digit % c == 0 or digit < c - 1]
        rows.append(dict(img_path=f'{index}.png', gt_label=labels))
    assert {len(row['gt_label']) for row in rows} >= {1, 2, 3}
    meta = dict(classes=list('abcde'))
    for name, part in (('train', rows[:32]), ('val', rows[32:])):
        (folder / f'data/{name}.json').write_text(
            json.dumps(dict(metainfo=meta, data_list=part)))
    (folder / 'several.py').write_text(
        CONFIG.format(base=[f'{ROOT}/configs/mcod_quickstart.py']))
    return folder


ROOT = __file__.rpartition('/tests/')[0]


def read(home, work_dir, **changes):
    init_default_scope('mmpretrain')
    cfg = read_config(str(home / 'several.py'))
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset.data_root = str(home / 'data')
    cfg.work_dir = str(home / work_dir)
    cfg.experiment_name = f'{home.name}_{work_dir}'
    cfg.merge_from_dict(changes)
    return cfg


@pytest.fixture(scope='module')
def run(home):
    cfg = read(home, 'run')
    runner = RUNNERS.build(cfg)
    lines = []
    info = runner.logger.info
    runner.logger.info = lambda text, *args: (
        lines.append(text % args if args else text), info(text, *args))
    runner.train()
    return SimpleNamespace(
        runner=runner,
        cfg=cfg,
        told='\n'.join(map(str, lines)),
        checkpoint=str(home / 'run' / 'epoch_2.pth'))


def test_it_trains(run, home):
    record = json.loads((home / 'run' / 'record.json').read_text())
    for name in NAMES:
        for key in ('mAP', 'precision', 'recall', 'f1-score'):
            assert len(record['curves'][f'{name}/{key}']) == 2
        # The best by average precision, where nothing else is asked for.
        assert list((home / 'run').glob(f'best_{name}_mAP_epoch_*.pth'))
    assert 0 <= record['last']['diversity/disagreement'] <= 1
    assert 'ensemble/top1' not in record['last']
    table = run.told[run.told.rindex('Result'):]
    assert 'mAP' in table and 'csra' in table
    assert any(value > 0 for value in record['kd_weight'])


def test_it_is_tested(run, home):
    cfg = read(home, 'tested', load_from=run.checkpoint)
    runner = RUNNERS.build(cfg)
    found = runner.test()
    record = json.loads((home / 'run' / 'record.json').read_text())
    assert found == pytest.approx(record['last'])
    cfg = read(home, 'tta', load_from=run.checkpoint)
    use_tta(cfg)
    runner = RUNNERS.build(cfg)
    from mmengine.evaluator import DumpResults
    runner._test_loop = runner.build_test_loop(runner._test_loop)
    runner.test_evaluator.metrics.append(
        DumpResults(out_file_path=str(home / 'tta.pkl')))
    augmented = runner.test()
    samples = pickle.loads((home / 'tta.pkl').read_bytes())
    for name in NAMES:
        field = 'pred_score' if name == 'ensemble' else f'pred_score_{name}'
        metric = AveragePrecision()
        metric.process(None, [
            dict(pred_score=sample[field], gt_label=sample['gt_label'])
            for sample in samples
        ])
        expected = metric.evaluate(32)['multi-label/mAP']
        assert augmented[f'{name}/mAP'] == pytest.approx(expected)
        for sample in samples:
            label = field.replace('score', 'label')
            assert sample[label].tolist() == (
                sample[field] >= .5).nonzero().flatten().tolist()
    assert augmented != pytest.approx(found)


def test_it_is_exported(run, home):
    exports = export_branches(run.cfg, run.checkpoint, ['all'],
                              ['mmpretrain', 'safetensors', 'timm', 'onnx'],
                              str(home / 'exported'))
    found = {(item.branch, item.format) for item in exports.items}
    assert found == {
        ('csra', 'mmpretrain'), ('csra', 'safetensors'), ('csra', 'onnx'),
        ('timm', 'mmpretrain'), ('timm', 'safetensors'), ('timm', 'timm'),
        ('timm', 'onnx'), ('plain', 'safetensors'), ('plain', 'onnx')
    }
    assert all(item.difference < 1e-4 for item in exports.items)
    assert exports.metrics == dict(csra={}, timm={}, plain={})
    assert 'images of val_dataloader' in exports.images
    text = report(exports)
    assert 'plain as mmpretrain is not exported: branch plain is a plain' in (
        text)
    # Its config is that of a test by MMPretrain's metrics.
    cfg = Config.fromfile(home / 'exported/csra/mmpretrain/config.py')
    assert cfg.test_evaluator == [
        dict(type='MultiLabelMetric', thr=.5),
        dict(type='AveragePrecision')
    ]
    with pytest.raises(ConfigError, match='have not one label each'):
        export_branches(
            run.cfg,
            run.checkpoint, ['csra'], ['onnx'],
            str(home / 'verified'),
            verify_accuracy=True)
    assert not (home / 'verified').exists()


def test_what_tells_top1_accuracy_refuses_it(run, home, tmp_path):
    with pytest.raises(ConfigError, match='cannot be published: .* top-1'):
        publish_cohort(str(home / 'run'), str(tmp_path / 'card'))
    assert not (tmp_path / 'card').exists()
    (tmp_path / 'study.py').write_text(
        f"config = {str(home / 'several.py')!r}\n"
        "methods = dict(solo='solo', mcod='mcod')\nseeds = [0]\n"
        "baseline = 'solo'\n")
    with pytest.raises(ConfigError, match='study compares top-1 accuracy'):
        plan(read_study(str(tmp_path / 'study.py')), str(tmp_path))


@pytest.mark.parametrize('changes, words', [
    (dict(val_evaluator=dict(type='mcod_plugin.BranchMetrics')),
     'topk of BranchMetrics is for images of one label'),
    ({
        'val_evaluator.topk': (1, )
    }, 'topk of BranchMetrics is for images of one label'),
    ({
        'model.branches':
        dict(
            resnet=dict(
                backbone=dict(
                    type='mcod_plugin.CifarResNet', depth=8, width=4),
                head=dict(type='LinearClsHead', num_classes=5)))
    }, 'train_dataloader.dataset must have one label for each image'),
    ({
        'train_dataloader.dataset': dict(
            type='mcod_plugin.InMemoryDataset', source='MultiLabelDataset')
    }, 'InMemoryDataset is for images of one label'),
])
def test_refused_before_the_first_step(home, changes, words):
    cfg = read(home, 'refused')
    for key, value in changes.items():
        place = cfg
        *parents, last = key.split('.')
        for parent in parents:
            place = place[parent]
        if key == 'train_dataloader.dataset':
            place[last].update(value)
        else:
            place[last] = value
    with pytest.raises(ConfigError) as caught:
        RUNNERS.build(cfg).train()
    assert words in str(caught.value) and '\n' not in str(caught.value)
    assert not list((home / 'refused').rglob('*.pth'))


class Several:
    """A data set with the labels of each image."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def get_cat_ids(self, index):
        return self.labels[index]


def test_labels_of_data():
    assert label_bounds(Several([[3], [], [1, 7]])) == (1, 7)
    assert label_bounds(Several([[], []])) is None
    check_one_label('data', Several([[3], [1]]))
    check_one_label('data', Several([3, np.int64(1)]))
    for labels in ([3], [], [1, 7]), ([1, 2], ):
        with pytest.raises(ConfigError, match='^data must have one label'):
            check_one_label('data', Several(labels))
    wrapped = SimpleNamespace(datasets=[Several([[1]]), Several([[1, 2]])])
    with pytest.raises(ConfigError, match=r'image 0 has \[1, 2\]'):
        check_one_label('data', wrapped)
    with pytest.raises(ConfigError):
        check_one_label('data', SimpleNamespace(dataset=wrapped))
    check_one_label('data', torch.utils.data.TensorDataset(torch.ones(2)))
