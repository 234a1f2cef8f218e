"""Every mistake is told in one line, with exit code 2 and nothing left."""
import os
import pickle
import shutil

import pytest
import torch

HEAD = "head=dict(type='LinearClsHead', num_classes=10)"
NET = "backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4)"
CIFAR = """\
train_dataloader = dict(dataset=dict(
    _delete_=True, type='CIFAR100', data_root='data', split='train',
    pipeline=[dict(type='PackInputs')]))
"""


def backbone(text):
    return f'model = dict(branches=dict(resnet=dict(backbone=dict({text}))))'


def head(text):
    return f'model = dict(branches=dict(resnet=dict(head=dict({text}))))'


def branches(text):
    return f'model = dict(branches=dict(_delete_=True, {text}))'


def setting(text):
    return f'model = dict(branches=dict(resnet=dict({text})))'


def hook(text):
    return ('custom_hooks = [dict('
            f"type='mcod_plugin.DiscontinuousKDHook', {text})]")


# name, what the config adds to the tiny one, what the line must tell
CONFIGS = [
    # parts that do not exist
    ('backbone', backbone("type='ResNet_CIFR'"),
     ['model.branches.resnet.backbone.type', 'ResNet_CIFR', 'ResNet_CIFAR']),
    ('no_prefix', backbone("type='CifarResNet'"), [
        'model.branches.resnet.backbone.type', 'CifarResNet',
        'did you mean mcod_plugin.CifarResNet'
    ]),
    ('hook_no_prefix', "custom_hooks = [dict(type='DiscontinuousKDHook')]", [
        'custom_hooks.0.type', 'DiscontinuousKDHook',
        'did you mean mcod_plugin.DiscontinuousKDHook'
    ]),
    ('head', head("type='LinearHead'"),
     ['model.branches.resnet.head.type', 'LinearHead', 'LinearClsHead']),
    ('hook', "custom_hooks = [dict(type='EMAHok')]",
     ['custom_hooks.0.type', 'EMAHok', 'EMAHook']),
    ('default_hook', "default_hooks = dict(timer=dict(type='IterTimeHook'))",
     ['default_hooks.timer.type', 'IterTimeHook', 'IterTimerHook']),
    ('metric', "val_evaluator = dict(type='mcod_plugin.BranchMetric')", [
        'val_evaluator.type', 'mcod_plugin.BranchMetric',
        'mcod_plugin.BranchMetrics'
    ]),
    ('dataset', "train_dataloader = dict(dataset=dict(type='CIFAR1000'))",
     ['train_dataloader.dataset.type', 'CIFAR1000', 'CIFAR100']),
    ('transform', 'train_dataloader = dict(dataset=dict('
     "pipeline=[dict(type='RandomCrp', crop_size=32)]))", [
         'train_dataloader.dataset.pipeline.0.type', 'RandomCrp',
         'RandomCrop'
     ]),
    ('views', "train_dataloader = dict(dataset=dict(views=['resnet']))", [
        'train_dataloader.dataset.views must name all branches, resnet, vgg',
        'it lacks vgg'
    ]),
    ('test_views', 'val_dataloader = dict(dataset=dict(views=True))', [
        'val_dataloader.dataset.views', 'validation and test take one image '
        'for all branches'
    ]),
    ('teacher', "model = dict(teacher=dict(type='mcod_plugin.EnsembleTeach'))",
     [
         'model.teacher.type', 'mcod_plugin.EnsembleTeach',
         'mcod_plugin.EnsembleTeacher'
     ]),
    ('distill',
     "model = dict(distill=dict(type='mcod_plugin.DiscontinousKD'))", [
         'model.distill.type', 'mcod_plugin.DiscontinousKD',
         'did you mean mcod_plugin.DiscontinuousKDLoss'
     ]),
    ('model', "model = dict(type='mcod_plugin.MultiBackboneClasifier')",
     ['model.type', 'mcod_plugin.MultiBackboneClassifier']),
    ('optimizer', "optim_wrapper = dict(optimizer=dict(type='AdmW'))",
     ['optim_wrapper.optimizer.type', 'AdmW', 'AdamW']),
    ('optim_wrapper', "optim_wrapper = dict(type='OptimWraper')",
     ['optim_wrapper.type', 'OptimWraper', 'OptimWrapper']),
    ('scheduler', "param_scheduler = [dict(type='CosineAnealingLR')]",
     ['param_scheduler.0.type', 'CosineAnealingLR', 'CosineAnnealingLR']),
    ('runner', "runner_type = 'mcod_plugin.CohortRuner'",
     ['runner_type', 'mcod_plugin.CohortRuner', 'mcod_plugin.CohortRunner']),
    ('flexible_runner', "runner_type = 'FlexibleRunner'",
     ['runner_type', 'FlexibleRunner', 'not supported', '--launcher']),
    ('strategy', "strategy = dict(type='DDPStrategy')",
     ['strategy', 'DDPStrategy', 'not supported', '--launcher']),
    ('timm_model',
     backbone("_delete_=True, type='TIMMBackbone', model_name='resnet18x'"),
     ['model.branches.resnet.backbone.model_name', 'resnet18x', 'resnet18']),
    ('in_chans',
     backbone("_delete_=True, type='TIMMBackbone', model_name='resnet18', "
              'in_chans=1'), [
                  'model.branches.resnet.backbone.in_chans', 'TIMMBackbone',
                  'did you mean in_channels?'
              ]),
    ('in_channels_of_timm',
     branches("a=dict(type='TimmClassifier', model_name='resnet18', "
              'in_channels=1)'), [
                  'model.branches.a.in_channels', 'TimmClassifier',
                  'did you mean in_chans?'
              ]),
    # arguments that do not exist
    ('argument', backbone('dept=20'),
     ['model.branches.resnet.backbone.dept', 'CifarResNet', 'depth']),
    ('head_argument', head('num_clases=10'), [
        'model.branches.resnet.head.num_clases', 'LinearClsHead', 'num_classes'
    ]),
    ('hook_argument', hook('weigth=(0, 1)'),
     ['custom_hooks.0.weigth', 'DiscontinuousKDHook', 'weight']),
    ('model_argument', 'model = dict(branchs=dict())',
     ['model.branchs', 'MultiBackboneClassifier', 'branches']),
    ('distill_argument', 'model = dict(distill=dict(temprature=2))',
     ['model.distill.temprature', 'DiscontinuousKDLoss', 'temperature']),
    ('dataset_argument', 'train_dataloader = dict(dataset=dict(splt=1))',
     ['train_dataloader.dataset.splt', 'split']),
    ('loop_argument', 'train_cfg = dict(max_epoch=3)',
     ['train_cfg.max_epoch', 'max_epochs']),
    ('loop_no_kind', 'train_cfg = dict(_delete_=True, max_epochs=1)',
     ['train_cfg.by_epoch', 'False, True', 'None']),
    ('branch_optimizer', setting("optimizer=dict(type='AdmW', lr=1.)"),
     ['model.branches.resnet.optimizer.type', 'AdmW', 'AdamW']),
    ('branch_optimizer_argument',
     setting("optimizer=dict(type='SGD', lr=1., momentun=1)"),
     ['model.branches.resnet.optimizer.momentun', 'did you mean momentum']),
    ('branch_clip_grad', setting('clip_grad=dict(max_nrom=1.)'),
     ['model.branches.resnet.clip_grad.max_nrom', 'did you mean max_norm']),
    ('optimizer_argument', 'optim_wrapper = dict(optimizer=dict(momentun=1))',
     ['optim_wrapper.optimizer.momentun', 'AdamW']),
    ('compile', "compile = 'yes'",
     ['compile must be True, False or a dict', "got 'yes'"]),
    ('compile_argument', "compile = dict(bakend='eager')",
     ['compile.bakend', 'did you mean backend']),
    ('compile_backend', "compile = dict(backend='inductr')",
     ['compile.backend', "'inductr'", 'did you mean inductor']),
    ('leftover_argument', "param_scheduler = [dict(type='CosineAnnealingLR', "
     'by_epoch=True, milestones=[1])]',
     ['param_scheduler.0.milestones', 'CosineAnnealingLR']),
    # the cohort
    ('no_branches', 'model = dict(branches=dict(_delete_=True))',
     ['model.branches', 'at least one', '{}']),
    ('name_dot', f"model = dict(branches={{'a.b': dict({NET}, {HEAD})}})",
     ['model.branches', "'a.b'", 'letters, digits, _ and -']),
    ('name_train', branches(f'train=dict({NET}, {HEAD})'),
     ['model.branches', "'train'"]),
    ('name_type', branches(f'type=dict({NET}, {HEAD})'),
     ['model.branches', "'type'"]),
    ('name_ensemble', branches(f'ensemble=dict({NET}, {HEAD})'),
     ['model.branches', "'ensemble'"]),
    ('name_long', branches(f"{'b' * 65}=dict({NET}, {HEAD})"),
     ['model.branches', 'at most 64', 'got 65']),
    ('names_alike', setting('') + f"\nmodel['branches']['VGG'] = dict({NET}, "
     f'{HEAD})', ["'vgg' and 'VGG' in model.branches", 'case']),
    ('no_head', branches(f'a=dict({NET})'),
     ['model.branches.a.head is missing']),
    ('disagree', head('num_classes=7'),
     ['model.branches', 'num_classes', 'resnet 7', 'vgg 10']),
    ('labels', 'model = dict(branches=dict('
     'resnet=dict(head=dict(num_classes=7)), '
     'vgg=dict(head=dict(num_classes=7))))\n'
     'data_preprocessor = dict(num_classes=7)',
     ['train_dataloader.dataset', '0 to 9', 'num_classes', '7']),
    ('preprocessor', 'data_preprocessor = dict(num_classes=9)',
     ['data_preprocessor.num_classes', '9', '10']),
    ('in_channels', head('in_channels=99'),
     ['model.branches.resnet.head.in_channels', '99', '16']),
    ('fusion', "model = dict(teacher=dict(fusion='median'))",
     ['model.teacher', 'fusion', "'median'", 'min_logit, prob_mean']),
    # numbers
    *[(f'temperature_{name}',
       f'model = dict(distill=dict(temperature={value}))',
       ['model.distill', 'temperature', 'greater than 0', shown])
      for name, value, shown in (('0', '0', 'got 0'), ('negative', '-1.5',
                                                       'got -1.5'),
                                 ('nan', "float('nan')", 'got nan'),
                                 ('text', "'warm'", "got 'warm'"))],
    *[(f'weight_{name}', hook(f'weight=(0.1, {value})'),
       ['custom_hooks.0', 'weight', 'finite', 'at least 0', shown])
      for name, value, shown in (('negative', '-1', 'got -1'),
                                 ('nan', "float('nan')", 'got nan'),
                                 ('inf', "float('inf')", 'got inf'))],
    ('weight_single', hook('weight=1'), ['custom_hooks.0', 'weight', 'got 1']),
    ('begin_end', hook('begin=2, end=2'),
     ['custom_hooks.0', 'end', 'begin', 'got 2']),
    ('begin_late', hook('begin=2'), ['begin', 'less than', '2', 'got 2']),
    ('gap', hook('gap=(-1, 0)'),
     ['custom_hooks.0', 'gap', 'at least 0', 'got -1']),
    ('on', hook('on=0'), ['custom_hooks.0', 'on', 'at least 1', 'got 0']),
    ('curve', hook("curve='sine'"),
     ['custom_hooks.0', 'curve', "'sine'", 'cosine, exp, linear, step']),
    ('split', "train_dataloader = dict(dataset=dict(split='trian'))",
     ['train_dataloader.dataset', 'split', "'trian'", 'test, train']),
    ('empty', 'val_dataloader = dict(dataset=dict(_delete_=True, '
     "type='mcod_plugin.Digits', indices=[], pipeline=[]))",
     ['val_dataloader.dataset: data set Digits is empty']),
    ('no_batch', 'train_dataloader = dict(batch_size=400, drop_last=True)',
     ['train_dataloader', '384 images', 'batch_size 400', 'drop_last=True']),
    ('batch_of_one', backbone("_delete_=True, type='TIMMBackbone', "
                              "model_name='resnet18', channels=(4, 4, 8, 8)") +
     '\ntrain_dataloader = dict(batch_size=383)', [
         'train_dataloader: the last batch has one image (384 in batches of ',
         'branches.resnet.backbone.timm_model.layer4.0.bn1', 'drop_last=True'
     ]),
    ('cifar_split', CIFAR.replace("'train'", "'trian'"),
     ['train_dataloader.dataset', 'split', "'trian'", "'train', 'test'"]),
    ('cifar_missing', CIFAR, [
        'CIFAR100 is missing', 'data/cifar-100-python',
        'cifar-100-python.tar.gz'
    ]),
    ('imagenet_missing', "train_dataloader = dict(dataset=dict(_delete_=True, "
     "type='ImageNet', data_root='data/in1k', split='train', "
     "pipeline=[dict(type='PackInputs')]))", ['ImageNet', 'data/in1k']),
    # what the tools cannot use at all
    ('no_model', '_base_ = []', ['no_model.py', 'lacks the setting model']),
    ('no_optimizer', 'optim_wrapper = None',
     ['no_optimizer.py', 'lacks the setting optim_wrapper']),
    ('syntax', 'x = 1\nmodel = dict(a=\n', ['syntax.py, line 3']),
    ('name_error', 'x = undefined', ['name_error.py', "'undefined'"]),
    ('no_base', "_base_ = ['nowhere.py']", ['no_base.py', 'nowhere.py']),
    ('base_syntax', "_base_ = ['broken.py']", ['broken.py', 'line 1']),
    ('no_import', "custom_imports = dict(imports=['no_such_module'])",
     ['no_import.py', 'no_such_module']),
    ('second_base', "_base_ = ['tiny.py', 'tiny.py']",
     ['second_base.py', 'Duplicate key']),
]

# name, arguments of tools/train.py, what the line must tell
TRAIN = [
    ('config_missing', ['nowhere.py'], ['nowhere.py', 'no such file']),
    ('config_folder', ['.'], ['config .']),
    ('config_suffix', ['notes.txt'], ['notes.txt', 'py/yml/yaml/json']),
    ('no_config', [], ['config', '--help']),
    ('argument', ['tiny.py', '--resmue'],
     ['--resmue', 'did you mean --resume']),
    ('option_key', ['tiny.py', '--cfg-options', 'modle.x=1'],
     ['--cfg-options modle.x', "'modle'", 'did you mean model']),
    ('option_index', ['tiny.py', '--cfg-options', 'custom_hooks.7.on=2'],
     ['--cfg-options custom_hooks.7.on', '7']),
    ('option_no_index', ['tiny.py', '--cfg-options', 'custom_hooks.a.on=2'],
     ['--cfg-options custom_hooks.a.on', 'a']),
    ('option_value', ['tiny.py', '--cfg-options', 'train_cfg.max_epochs'],
     ['--cfg-options', 'KEY=VALUE', "'train_cfg.max_epochs'"]),
    ('option_no_key', ['tiny.py', '--cfg-options', '=3'],
     ['--cfg-options', 'KEY=VALUE', "'=3'"]),
    ('option_bracket', ['tiny.py', '--cfg-options', 'model.x=[(1,2]'],
     ['--cfg-options model.x', 'rackets']),
    ('option_below_value',
     ['tiny.py', '--cfg-options', 'train_cfg.max_epochs.x=3'],
     ['--cfg-options train_cfg.max_epochs.x']),
    ('option_type', ['tiny.py', '--cfg-options', 'train_cfg.max_epochs=two'],
     ['train_cfg.max_epochs', 'integer', 'two']),
    ('no_epochs', ['tiny.py', '--cfg-options', 'train_cfg.max_epochs=0'],
     ['train_cfg.max_epochs', 'at least 1', 'got 0']),
    ('val_interval', ['tiny.py', '--cfg-options', 'train_cfg.val_interval=0'],
     ['train_cfg.val_interval', 'at least 1', 'got 0']),
    ('val_begin', ['tiny.py', '--cfg-options', 'train_cfg.val_begin=abc'],
     ['train_cfg.val_begin', 'at least 0', "got 'abc'"]),
    ('checkpoint_interval', [
        'tiny.py', '--cfg-options', 'default_hooks.checkpoint.interval=abc'
    ], ['default_hooks.checkpoint.interval', 'integer', "got 'abc'"]),
    ('checkpoint_folder', [
        'tiny.py', '--cfg-options', 'default_hooks.checkpoint.out_dir=tiny.py'
    ], [
        'default_hooks.checkpoint.out_dir tiny.py', 'cannot be used',
        'tiny.py is no folder'
    ]),
    ('window_size', ['tiny.py', '--cfg-options',
                     'log_processor.window_size=abc'],
     ['log_processor.window_size', 'at least 1', "got 'abc'"]),
    ('std_0',
     ['tiny.py', '--cfg-options', 'data_preprocessor.std=1,0,1'],
     ['data_preprocessor.std', 'greater than 0', '[1, 0, 1]']),
    ('on_divergence',
     ['tiny.py', '--cfg-options', 'on_divergence=ignore'],
     ['on_divergence', 'drop, stop', "'ignore'"]),
    ('launcher', ['tiny.py', '--launcher', 'pytorch'],
     ['--launcher pytorch', 'RANK', 'torchrun']),
    ('launcher_name', ['tiny.py', '--launcher', 'torchrun'],
     ['--launcher', 'torchrun', 'pytorch']),
    ('auto_scale_lr', ['tiny.py', '--auto-scale-lr'],
     ['--auto-scale-lr', 'auto_scale_lr=dict(base_batch_size=...)']),
    ('auto_scale_lr_number', [
        'tiny.py', '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=3'
    ], ['auto_scale_lr must be a dict', 'got 3']),
    ('amp_number',
     ['tiny.py', '--amp', '--cfg-options', 'optim_wrapper=3'],
     ['optim_wrapper must be a dict', 'got 3']),
    ('method_model_number', ['model.py', '--method', 'solo'],
     ['config model.py: model must be a dict', 'got 3']),
    ('work_dir_file', ['tiny.py', '--work-dir', 'notes.txt'],
     ['work_dir', 'notes.txt', 'is no folder']),
    ('work_dir_below_file', ['tiny.py', '--work-dir', 'notes.txt/run'],
     ['work_dir', 'notes.txt/run', 'is no folder']),
    # The name of a folder that is read as a number.
    ('work_dir_number', ['tiny.py', '--cfg-options', 'work_dir=2024'],
     ['work_dir must be the path of a folder', 'got 2024']),
    ('loader_number', ['tiny.py', '--cfg-options', 'train_dataloader=64'],
     ['train_dataloader must be a dict', 'got 64']),
    ('resume_missing', ['tiny.py', '--resume', 'nowhere.pth'],
     ['checkpoint nowhere.pth', 'no such file']),
]

# name, arguments of tools/test.py, what the line must tell
TEST = [
    ('checkpoint_missing', ['nowhere.pth'], ['nowhere.pth', 'no such file']),
    ('checkpoint_empty', ['empty.pth'], ['empty.pth', 'truncated']),
    ('checkpoint_bytes', ['bytes.pth'], ['bytes.pth', 'truncated']),
    ('checkpoint_text', ['notes.txt'], ['notes.txt']),
    ('checkpoint_folder', ['.'], ['checkpoint .']),
    ('checkpoint_list', ['list.pth'], ['list.pth', 'dict', 'list']),
    ('out_suffix', ['x.pth', '--out', 'x.txt'],
     ['--out', '.json', '.yaml', '.pkl', 'x.txt']),
    ('out_folder', ['x.pth', '--out', 'new/x.json'],
     ['--out', 'new', 'does not exist']),
    ('out_is_folder', ['x.pth', '--out', 'folder.json'],
     ['--out folder.json', 'is a folder']),
    ('out_item', ['x.pth', '--out-item', 'pred'],
     ['--out-item', '--out FILE']),
    ('out_item_suffix', ['x.pth', '--out', 'x.json', '--out-item', 'pred'],
     ['--out-item pred', '.pkl', 'x.json']),
]

# These are run from a shell, as it were, the others from the tool server.
FRESH = ('no_prefix', 'head_argument', 'labels', 'fusion', 'cifar_missing',
         'syntax', 'config_missing', 'option_index', 'checkpoint_empty')


def params(table):
    return [pytest.param(*row, id=row[0]) for row in table]


def tree(folder):
    """All that a folder holds."""
    return {
        path.relative_to(folder): path.is_file() and path.read_bytes()
        for path in folder.rglob('*')
    }


def check(done, words):
    print(done.err)
    assert done.code == 2
    assert done.err.startswith('error: ')
    assert done.err.count('\n') == 1 and done.err.endswith('\n')
    for word in words:
        assert word in done.err
    assert 'Traceback' not in done.out


@pytest.fixture
def place(tiny):
    (tiny / 'notes.txt').write_text('Nothing a tool can use.\n')
    (tiny / 'broken.py').write_text('model = dict(\n')
    (tiny / 'empty.pth').touch()
    (tiny / 'model.py').write_text('model = 3\n')
    (tiny / 'folder.json').mkdir()
    (tiny / 'bytes.pth').write_bytes(b'\x80')
    torch.save([1, 2], tiny / 'list.pth')
    return tiny


@pytest.mark.parametrize('name, text, words', params(CONFIGS))
def test_config(run_tool, place, name, text, words):
    if '_base_' not in text:
        text = f"_base_ = ['tiny.py']\n{text}"
    (place / f'{name}.py').write_text(text)
    before = tree(place)
    check(
        run_tool('train', f'{name}.py', cwd=place, fresh=name in FRESH), words)
    assert tree(place) == before


@pytest.mark.parametrize('name, args, words', params(TRAIN))
def test_train_arguments(run_tool, place, name, args, words):
    before = tree(place)
    check(run_tool('train', *args, cwd=place, fresh=name in FRESH), words)
    assert tree(place) == before


@pytest.mark.parametrize('name, args, words', params(TEST))
def test_test_arguments(run_tool, place, name, args, words):
    before = tree(place)
    check(
        run_tool('test', 'tiny.py', *args, cwd=place, fresh=name in FRESH),
        words)
    assert tree(place) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason='has a GPU')
@pytest.mark.parametrize('settings, words', [
    ("type='AmpOptimWrapper', dtype='float16'",
     ['--amp', 'optim_wrapper.dtype float16', 'GPU']),
    ("type='ApexOptimWrapper'",
     ['--amp', 'optim_wrapper.type', "got 'ApexOptimWrapper'"]),
    ("dtype='float16'",
     ['optim_wrapper.dtype', 'bfloat16', "got 'float16'", 'AmpOptimWrapper']),
])
def test_amp(run_tool, place, settings, words):
    (place / 'amp.py').write_text("_base_ = ['tiny.py']\n"
                                  f'optim_wrapper = dict({settings})')
    before = tree(place)
    check(run_tool('train', 'amp.py', '--amp', cwd=place), words)
    assert tree(place) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason='has a GPU')
def test_amp_of_mmengine_without_gpu(run_tool, place):
    before = tree(place)
    check(
        run_tool(
            'train',
            'tiny.py',
            '--cfg-options',
            'optim_wrapper.type=AmpOptimWrapper',
            cwd=place), [
                'optim_wrapper.type AmpOptimWrapper', 'GPU',
                'mcod_plugin.AutocastOptimWrapper'
            ])
    assert tree(place) == before


def test_damaged_data(run_tool, place):
    (place / 'bad.py').write_text(f"_base_ = ['tiny.py']\n{CIFAR}")
    folder = place / 'data' / 'cifar-100-python'
    folder.mkdir(parents=True)
    for name in ('train', 'test', 'meta'):
        (folder / name).write_bytes(b'not the real one')
    (place / 'data' / 'cifar-100-python.tar.gz').write_bytes(b'nor this')
    before = tree(place)
    check(
        run_tool('train', 'bad.py', cwd=place),
        ['CIFAR100 is damaged', str(folder), 'cifar-100-python.tar.gz'])
    assert tree(place) == before


@pytest.mark.parametrize('args', [
    ['--cfg-options', 'model.teacher.fusion=median'],
    ['--cfg-options', 'custom_hooks.0.begin=9'],
    ['--resume', 'nowhere.pth'],
])
def test_existing_work_dir_is_unchanged(run_tool, trained, place, args):
    shutil.copytree(trained.work_dir, place / 'work_dirs' / 'tiny')
    before = tree(place)
    check(run_tool('train', 'tiny.py', *args, cwd=place), ['error: '])
    assert tree(place) == before


def test_new_work_dir_goes_with_its_parents(run_tool, place):
    before = tree(place)
    check(
        run_tool(
            'train',
            'tiny.py',
            '--work-dir',
            'a/b/c',
            '--cfg-options',
            'model.teacher.fusion=x',
            cwd=place), ['fusion'])
    assert tree(place) == before


def test_resume_of_a_finished_run(run_tool, trained, place):
    shutil.copytree(trained.work_dir, place / 'work_dirs' / 'tiny')
    before = tree(place)
    check(
        run_tool('train', 'tiny.py', '--resume', cwd=place),
        ['nothing to resume', 'epoch_2.pth', '2', 'train_cfg.max_epochs'])
    assert tree(place) == before


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_truncated_checkpoint(run_tool, trained, place, tool):
    content = (trained.work_dir / 'epoch_1.pth').read_bytes()
    (place / 'half.pth').write_bytes(content[:len(content) // 2])
    args = ['half.pth'] if tool == 'test' else ['--resume', 'half.pth']
    before = tree(place)
    check(
        run_tool(tool, 'tiny.py', *args, cwd=place), ['half.pth', 'truncated'])
    assert tree(place) == before


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_checkpoint_of_another_cohort(run_tool, trained, place, tool):
    (place / 'other.py').write_text(
        "_base_ = ['tiny.py']\n" +
        branches(f'resnet=dict({NET}, {HEAD}), second=dict({NET}, {HEAD})'))
    checkpoint = trained.work_dir / 'epoch_1.pth'
    args = [checkpoint] if tool == 'test' else ['--resume', checkpoint]
    before = tree(place)
    check(
        run_tool(tool, 'other.py', *args, cwd=place), [
            str(checkpoint), 'not of this cohort (resnet, second)',
            'lacks branches.second', 'adds branches.vgg'
        ])
    assert tree(place) == before


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.mark.parametrize('form', ['zip', 'legacy', 'pickle'])
@pytest.mark.parametrize('tool', ['train', 'test'])
def test_payload_is_not_executed(run_tool, trained, place, tool, form):
    checkpoint = torch.load(
        trained.work_dir / 'epoch_1.pth', weights_only=True)
    executed = place / 'executed'
    checkpoint['meta']['extra'] = Payload(executed)
    path = place / 'payload.pth'
    if form == 'pickle':
        path.write_bytes(pickle.dumps(dict(state_dict=Payload(executed))))
    else:
        torch.save(
            checkpoint, path, _use_new_zipfile_serialization=form == 'zip')
    args = ['payload.pth'] if tool == 'test' else ['--resume', 'payload.pth']
    before = tree(place)
    check(
        run_tool(tool, 'tiny.py', *args, cwd=place),
        ['payload.pth', 'refused', 'executed'])
    assert tree(place) == before and not executed.exists()
    # The payload works: the trust that we do not have would execute it.
    if form == 'pickle':
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert executed.exists()


def test_debug_gives_the_traceback(run_tool, place):
    done = run_tool(
        'train',
        'tiny.py',
        '--cfg-options',
        'model.teacher.fusion=median',
        cwd=place,
        env=dict(MCOD_DEBUG='1'))
    assert done.code == 1
    assert 'Traceback' in done.err and 'check_choice' in done.err
    assert not (place / 'work_dirs').exists()


def test_loss_of_a_file_outside(run_tool, place):
    """Its mistake is told though no epoch before the second would see it."""
    (place / 'own_loss.py').write_text("""\
from mcod_plugin.models.losses import BaseKDLoss
from mcod_plugin.registry import MODELS


@MODELS.register_module()
class OwnLoss(BaseKDLoss):

    def forward(self, logits, targets):
        return (logits - targets).square().mean()
""")
    (place / 'own.py').write_text("""\
custom_imports = dict(imports=['own_loss'], allow_failed_imports=False)
model = dict(distill=dict(_delete_=True, type='OwnLoss'))
custom_hooks = [dict(type='mcod_plugin.DiscontinuousKDHook', begin=1)]
""")
    path = os.pathsep.join((str(place), os.environ.get('PYTHONPATH', '')))
    done = run_tool(
        'train',
        'tiny.py',
        '--method',
        'own.py',
        cwd=place,
        env=dict(PYTHONPATH=path),
        fresh=True)
    assert done.code == 2
    assert done.err == (
        'error: model.distill.type OwnLoss must give a tensor of one loss for '
        'each branch, (2,); got ()\n')
    assert not (place / 'work_dirs').exists()


def test_error_in_the_middle_keeps_its_traceback(run_tool, place):
    (place / 'late.py').write_text("""\
_base_ = ['tiny.py']
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='failing_data.FailingDigits',
        size=32,
        pipeline=[dict(type='PackInputs')]))
custom_imports = dict(imports=['mcod_plugin', 'failing_data'])
""")
    (place / 'failing_data.py').write_text("""\
from mcod_plugin.datasets import Digits


class FailingDigits(Digits):

    def __getitem__(self, index):
        raise ValueError(f'image {index} cannot be read')
""")
    path = os.pathsep.join((str(place), os.environ.get('PYTHONPATH', '')))
    done = run_tool(
        'train', 'late.py', cwd=place, env=dict(PYTHONPATH=path), fresh=True)
    assert done.code == 1
    assert 'Traceback' in done.err and 'cannot be read' in done.err
    assert done.err.startswith('Traceback')
    assert (place / 'work_dirs' / 'late' / 'late.py').is_file()
