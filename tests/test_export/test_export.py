import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import timm
import torch
import torchvision.transforms.functional as TF
from safetensors.torch import load_file, save_file

from mcod_plugin.config.read import read_config
from mcod_plugin.errors import ConfigError
from mcod_plugin.export import export as export_module, export_branches, report
from mcod_plugin.export.export import _top1
from mcod_plugin.alone.files import write_timm
from mcod_plugin.registry import DATASETS, MODELS

TIMM = ('timm_cnn', 'timm_stages', 'swin', 'vit', 'vit2', 'timm_classifier')
BRANCHES = ('cnn', 'toolbox_vit', *TIMM, 'cifar')
FILES = dict(
    mmpretrain=['config.py', 'model.pth'],
    timm=['config.json', 'model.safetensors'],
    safetensors=['config.json', 'model.safetensors'],
    onnx=['model.onnx'])


@pytest.fixture(scope='module')
def digits():
    """Images that none of the runs has seen, ``(12, 3, 16, 16)``."""
    data = DATASETS.build(dict(type='mcod_plugin.Digits', split='test'))
    images = np.stack([data[350 - 25 * i]['img'] for i in range(12)])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


@pytest.fixture(scope='module')
def logits(run, digits):
    """The logits of all branches in their cohort, as it is trained."""
    cfg = read_config(run.config)
    cohort = MODELS.build(
        dict(
            cfg.model, input_size=16, data_preprocessor=cfg.data_preprocessor))
    cohort.load_state_dict(run.content['state_dict'])
    cohort.eval()
    inputs = dict(inputs=torch.from_numpy(digits))
    with torch.no_grad():
        found = cohort.branch_logits(
            cohort.data_preprocessor(inputs)['inputs'])
    return {name: value.numpy() for name, value in found.items()}


@pytest.fixture(scope='module')
def outside(exported, digits, tmp_path_factory):
    """What processes find that were written apart from the package."""
    folder = tmp_path_factory.mktemp('outside')
    np.save(folder / 'images.npy', digits)
    # What the branch with a size of its own sees, before normalisation.
    large = TF.resize(
        torch.from_numpy(digits).float(), [32, 32], antialias=True)
    np.save(folder / 'large.npy', large.numpy())

    def ask(jobs, *args):
        request = []
        for branch, format in jobs:
            top = 'timm' if format == 'timm' else 'others'
            images = 'large' if branch == 'cifar' else 'images'
            request.append(
                (branch, format, str(exported.folder / top / branch / format),
                 str(folder / f'{images}.npy')))
        out = folder / 'found.json'
        done = subprocess.run([
            sys.executable, '-I', '-W', 'ignore',
            str(Path(__file__).with_name('outsider.py')), *args,
            str(out)
        ],
                              input=json.dumps(request),
                              capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(out.read_text())

    free = [(name, format) for name in BRANCHES[:-1]
            for format in ('mmpretrain', 'onnx')]
    found = ask([*free, *((name, 'timm') for name in TIMM), ('cifar', 'onnx')],
                'without')
    assert found.pop('plugin') is False
    bound = ask([('cifar', 'mmpretrain')], 'plugin')
    assert bound.pop('plugin') is True
    return {**found, **bound}


@pytest.mark.parametrize('format', ['mmpretrain', 'onnx'])
@pytest.mark.parametrize('name', BRANCHES)
def test_outsiders_get_the_same_logits(outside, logits, name, format):
    found = np.array(outside[f'{name} {format}'])
    tolerance = dict(mmpretrain=1e-5, onnx=1e-4)[format]
    np.testing.assert_allclose(found, logits[name], rtol=0, atol=tolerance)
    # Else the comparison would say little.
    assert logits[name].std(0).max() > 1e-3


@pytest.mark.parametrize('name', TIMM)
def test_timm_gets_the_same_logits(outside, logits, name):
    found = np.array(outside[f'{name} timm'])
    np.testing.assert_allclose(found, logits[name], rtol=0, atol=1e-5)
    assert outside[f'{name} labels'] == list('0123456789')
    assert outside[f'{name} size'] == [3, 16, 16]


@pytest.mark.parametrize('name', BRANCHES[:-1])
def test_inferencer(outside, logits, name):
    expected = logits[name][:3].argmax(1).tolist()
    assert outside[f'{name} inferencer'] == [[label, str(label)]
                                             for label in expected]


def test_files(exported):
    assert exported.items.keys() == {
        *((name, format) for name in BRANCHES
          for format in ('mmpretrain', 'safetensors', 'onnx')),
        *((name, 'timm') for name in TIMM)
    }
    for (name, format), item in exported.items.items():
        top = exported.folder / ('timm' if format == 'timm' else 'others')
        sizes = {
            path.name: path.stat().st_size
            for path in (top / name / format).iterdir()
        }
        assert item.files == sizes and sorted(sizes) == FILES[format]
        assert item.difference <= (1e-4 if format == 'onnx' else 1e-5)
        own = name == 'cifar' and format in ('mmpretrain', 'safetensors')
        assert item.needs_plugin is own
    for top, names in (('others', BRANCHES), ('timm', TIMM)):
        place = exported.folder / top
        assert sorted(path.name for path in place.iterdir()) == sorted(names)
        assert place.stat().st_mode & 0o777 == 0o777 & ~umask()
    # Nothing else is left beside.
    assert len(list(exported.folder.iterdir())) == 2


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_same_accuracy(exported, run):
    exports = exported.others
    # 70 images, and a first batch of one.
    assert exports.images == '70 of 70 images of val_dataloader'
    for item in exports.items:
        assert item.metrics == exports.metrics[item.branch]
    best = [exports.metrics[item.branch]['top1'] for item in exports.items]
    assert best == sorted(best, reverse=True)


def test_averaged_weights(exported, run, place):
    # EMAHook swaps them when it saves.
    content = run.content
    assert exported.others.averaged
    for name in ('cnn', 'toolbox_vit', 'timm_classifier'):
        found = torch.load(
            place(name, 'mmpretrain') / 'model.pth', weights_only=True)
        prefix = f'branches.{name}.'
        average = {
            key[len(prefix):]: value
            for key, value in content['state_dict'].items()
            if key.startswith(prefix)
        }
        assert found['state_dict'].keys() == average.keys()
        for key, value in found['state_dict'].items():
            torch.testing.assert_close(value, average[key], rtol=0, atol=0)
            assert value.is_contiguous()
        raw = {
            key[len(f'module.{prefix}'):]: value
            for key, value in content['ema_state_dict'].items()
            if key.startswith(f'module.{prefix}')
        }
        assert raw.keys() == average.keys()
        assert any(not torch.equal(raw[key], average[key]) for key in average)


def test_each_branch_has_its_own_weights(place):
    first, second = (
        load_file(place(name, 'safetensors') / 'model.safetensors')
        for name in ('vit', 'vit2'))
    assert first.keys() == second.keys()
    assert not torch.equal(first['head.weight'], second['head.weight'])


def test_checkpoint_meta(place, exported):
    for name in ('cnn', 'cifar'):
        meta = torch.load(
            place(name, 'mmpretrain') / 'model.pth', weights_only=True)['meta']
        assert meta['dataset_meta'] == {'classes': list('0123456789')}
        top1 = exported.others.metrics[name]['top1']
        assert meta['metrics']['top1'] == top1
        assert meta['config'] == 'tiny.py'
        assert meta['checkpoint'] == 'epoch_1.pth' and meta['epoch'] == 1
        assert meta['versions']['torch'] == torch.__version__.split('+')[0]


@pytest.mark.parametrize('name', BRANCHES)
def test_config_is_the_toolboxs_own(place, name):
    path = place(name, 'mmpretrain') / 'config.py'
    cfg = read_config(str(path))
    own = name == 'cifar'
    assert ('mcod_plugin' in str(cfg.model)) is own
    assert ('custom_imports' in cfg) is own
    assert ('resnet18.a1'
            in path.read_text()) is (name in ('timm_cnn', 'timm_stages',
                                              'timm_classifier'))
    assert cfg.test_evaluator == dict(type='Accuracy', topk=(1, ))
    pipeline = cfg.test_dataloader.dataset.pipeline
    kinds = [part.type for part in pipeline if part.type.endswith('Resize')]
    assert pipeline[-1].type == 'PackInputs'
    if own:
        # To the size of its own as in the cohort.
        assert kinds == ['torchvision/Resize']
        assert tuple(pipeline[2].size) == (32, 32)
    else:
        assert len(pipeline) == 2 and kinds == ['Resize']
        assert tuple(pipeline[0].scale) == (16, 16)


def test_what_was_left_out_is_worked_out(place):
    cfg = read_config(str(place('cnn', 'mmpretrain') / 'config.py')).model
    assert cfg.neck == dict(type='GlobalAveragePooling')
    assert cfg.head.in_channels == 32 and cfg.head.num_classes == 10
    # The toolbox cannot pool what timm's transformers give.
    cfg = read_config(str(place('swin', 'mmpretrain') / 'config.py')).model
    assert cfg.type == 'TimmClassifier'
    cfg = read_config(str(place('cifar', 'mmpretrain') / 'config.py')).model
    assert list(cfg.data_preprocessor.mean) == [60, 70, 80]
    assert list(cfg.data_preprocessor.std) == [90, 100, 110]


def test_safetensors_config(place, exported):
    config = json.loads(
        (place('cifar', 'safetensors') / 'config.json').read_text())
    assert config['custom_imports'] == ['mcod_plugin']
    assert config['classes'] == list('0123456789')
    assert config['preprocessing'] == dict(
        input_shape=[3, 32, 32],
        channel_order='RGB',
        value_range=[0, 255],
        mean=[60, 70, 80],
        std=[90, 100, 110],
        crop_ratio=1,
        interpolation='bilinear')
    assert config['metrics']['top1'] == exported.others.metrics['cifar'][
        'top1']


def test_timm_resizes_as_the_data_did(tmp_path):
    network = timm.create_model('resnet18', channels=(4, 4, 8, 8))
    write_timm(
        SimpleNamespace(
            name='a',
            is_plain=False,
            timm=('resnet18', dict(channels=(4, 4, 8, 8)), network),
            channel_order='RGB',
            num_classes=1000,
            input_shape=(3, 64, 64),
            crop_ratio=.875,
            interpolation='bicubic',
            mean=(127.5, ) * 3,
            std=(51., ) * 3,
            classes=None), str(tmp_path))
    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    data = timm.data.resolve_model_data_config(model)
    assert data == dict(
        input_size=[3, 64, 64],
        interpolation='bicubic',
        mean=[.5] * 3,
        std=[.2] * 3,
        crop_pct=.875,
        crop_mode='center')


def test_timm_config(place):
    folder = place('timm_cnn', 'timm')
    config = json.loads((folder / 'config.json').read_text())
    assert config['architecture'] == 'resnet18'
    assert config['model_args'] == {'channels': [4, 4, 8, 8]}
    assert config['num_classes'] == 10
    data = config['pretrained_cfg']
    assert data['mean'] == pytest.approx([70 / 255, 80 / 255, 90 / 255])
    assert data['std'] == pytest.approx([80 / 255, 90 / 255, 100 / 255])


def test_onnx_file(place, outside):
    graph = onnx.load(place('cifar', 'onnx') / 'model.onnx')
    assert [(opset.domain, opset.version)
            for opset in graph.opset_import] == [('', 17)]
    shape = graph.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value
            for dim in shape] == ['N', 3, 32, 32]
    meta = outside['cifar meta']
    assert meta['branch'] == 'cifar' and meta['input'] == 'RGB, 0 to 255'
    assert json.loads(meta['classes']) == list('0123456789')


def test_report(exported):
    text = report(exported.others)
    assert text.count('model.onnx') == len(BRANCHES)
    assert 'on 70 of 70 images of val_dataloader.' in text
    assert 'averages over the run' in text
    assert '\ncifar: have parts of mcod_plugin' in text
    assert 'averages' not in report(exported.others._replace(averaged=False))


@pytest.mark.parametrize('imports', [
    'own_parts.hooks',
    ['mmpretrain.models', 'mcod_plugin.engine', 'own_parts.hooks']
])
def test_packages_of_the_users_own(run, tmp_path, monkeypatch, imports):
    """Whatever they register may be needed, so they stay and are told."""
    (tmp_path / 'own_parts').mkdir()
    # They may be written for this plugin, even if the branch is not.
    (tmp_path / 'own_parts' /
     'hooks.py').write_text('from mcod_plugin.registry import HOOKS\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    cfg = read_config(run.config)
    cfg.custom_imports.imports = imports
    exports = export_branches(cfg, run.checkpoint, ['cnn', 'cifar'],
                              ['mmpretrain', 'safetensors', 'onnx'],
                              str(tmp_path / 'out'))
    for item in exports.items:
        own = [] if item.format == 'onnx' else ['own_parts']
        assert item.own_packages == own
    text = report(exports)
    names = ', '.join(dict.fromkeys(item.branch for item in exports.items))
    assert (f'\n{names}: import own_parts as their cohort does, which must be '
            'installed to open them as mmpretrain or safetensors.') in text
    text = (tmp_path / 'out/cnn/mmpretrain/config.py').read_text()
    assert "'own_parts.hooks'," in text and "'mcod_plugin'" not in text
    config = json.loads(
        (tmp_path / 'out/cifar/safetensors/config.json').read_text())
    assert {'mcod_plugin', 'own_parts.hooks'} <= {*config['custom_imports']}
    # What does without the toolbox imports nothing.
    only = exports._replace(
        items=[item for item in exports.items if item.format == 'onnx'])
    assert 'own_parts' not in report(only)


def test_all_that_can_be_had(exported):
    """Of all branches those that are timm's, and why the others are not."""
    assert exported.others.left_out == {}
    left_out = exported.timm.left_out
    assert list(left_out) == [(name, 'timm')
                              for name in ('cnn', 'toolbox_vit', 'cifar')]
    assert left_out['cnn', 'timm'] == (
        '--format timm: no classifier of timm gives the logits of branch cnn; '
        'mmpretrain, safetensors and onnx take it')
    lines = report(exported.timm).splitlines()
    assert lines[-1] == (
        'cifar as timm is not exported: no classifier of timm gives the '
        'logits of branch cifar; mmpretrain, safetensors and onnx take it.')


def test_all_but_what_is_withdrawn(run, tmp_path, monkeypatch):
    """One that is wrong, one that cannot be written and one that cannot be
    opened keep nobody from the others."""
    write = export_module.WRITERS['safetensors']

    def write_some(model, folder):
        if model.name == 'cnn':
            raise ConfigError('--format safetensors: not this one')
        write(model, folder)
        path = Path(folder, 'model.safetensors')
        if model.name == 'vit':
            path.write_bytes(b'nonsense')
        if model.name == 'vit2':
            weights = load_file(path)
            weights['head.fc.bias' if 'head.fc.bias' in
                    weights else 'head.bias'] += 1
            save_file(weights, path)

    monkeypatch.setitem(export_module.WRITERS, 'safetensors', write_some)
    exports = export_branches(
        read_config(run.config), run.checkpoint, ['all'], ['safetensors'],
        str(tmp_path / 'out'))
    assert list(exports.left_out) == [('cnn', 'safetensors'),
                                      ('vit', 'safetensors'),
                                      ('vit2', 'safetensors')]
    reasons = list(exports.left_out.values())
    assert reasons[0] == '--format safetensors: not this one'
    assert 'cannot be opened in a fresh process' in reasons[1]
    assert 'its logits differ' in reasons[2]
    rest = set(BRANCHES) - {'cnn', 'vit', 'vit2'}
    assert {item.branch for item in exports.items} == rest
    assert set(os.listdir(tmp_path / 'out')) == rest


@pytest.fixture
def refused(run, tmp_path):
    """Exports in vain, and returns the reason; nothing may be left."""

    def export(
            branches=('cnn', ),
            formats=('safetensors', ),
            out='out',
            checkpoint=run.checkpoint,
            cfg=None,
            **kwargs):
        before = sorted(tmp_path.rglob('*'))
        with pytest.raises(ConfigError) as caught:
            export_branches(
                cfg or read_config(run.config), checkpoint, branches, formats,
                str(tmp_path / out), **kwargs)
        assert sorted(tmp_path.rglob('*')) == before
        assert '\n' not in str(caught.value)
        return str(caught.value)

    return export


def test_unknown_branch(refused):
    text = refused(['cnn', 'vit3'])
    assert text.startswith('--branch vit3: the branches are cnn, toolbox_vit')
    assert text.endswith('did you mean vit, vit2?')


def test_no_cohort(refused, run):
    cfg = read_config(run.config)
    cfg.model = cfg.model.branches.cnn
    assert 'model.branches is missing' in refused(cfg=cfg)


def test_checkpoint_of_another_cohort(refused, run):
    cfg = read_config(run.config)
    del cfg.model.branches['cifar']
    text = refused(cfg=cfg)
    assert 'epoch_1.pth: the checkpoint is not of this cohort' in text
    assert 'adds branches.cifar' in text


def test_branch_that_was_left_out(refused, run, tmp_path):
    content = torch.load(run.checkpoint, weights_only=True)
    content['message_hub'] = dict(
        runtime_info=dict(diverged=dict(vit=dict(epoch=3, iteration=9))))
    torch.save(content, tmp_path / 'diverged.pth')
    text = refused(['cnn', 'vit'], checkpoint=str(tmp_path / 'diverged.pth'))
    assert text.startswith('--branch vit: in the run of ')
    assert text.endswith(
        'it diverged in iteration 9 and was left out; export cnn')


def test_no_checkpoint(refused):
    assert 'no such file' in refused(checkpoint='nothing.pth')


def test_folder_that_is_not_empty(refused, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine').write_text('')
    (tmp_path / 'out' / 'cnn' / 'safetensors').mkdir(parents=True)
    assert 'there is a cnn/safetensors already' in refused(
        ['cnn'], ['onnx', 'safetensors'])
    assert 'is no folder' in refused(out='out/mine')
    assert 'cannot be written' in refused(out='out/mine/below')


def test_folder_of_other_exports(run, tmp_path):
    """They stay, and new ones come beside them."""
    out = tmp_path / 'out'
    for formats in (['safetensors'], ['mmpretrain']):
        export_branches(
            read_config(run.config),
            run.checkpoint, ['cnn'],
            formats,
            str(out),
            limit=2)
    assert {path.name for path in tmp_path.iterdir()} == {'out'}
    assert sorted(path.name for path in (out / 'cnn').iterdir()) == [
        'mmpretrain', 'safetensors'
    ]
    assert (out / 'cnn/safetensors/model.safetensors').is_file()
    assert (out / 'cnn/mmpretrain/config.py').is_file()


@pytest.mark.parametrize('branch, format', [('cnn', 'mmpretrain'),
                                            ('cnn', 'safetensors'),
                                            ('cnn', 'onnx'), ('vit', 'timm')])
def test_full_disk(refused, branch, format):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files fails as a disk without room does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        text = refused([branch], [format], out='a/b')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert text.endswith('cannot be written: File too large')


@pytest.mark.parametrize('name', ['cnn', 'cifar'])
def test_what_timm_has_not(refused, name):
    text = refused([name], ['safetensors', 'timm'])
    assert text == (f'--format timm: no classifier of timm gives the logits '
                    f'of branch {name}; mmpretrain, safetensors and onnx take '
                    'it')


def test_missing_package(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    text = refused(formats=['onnx'])
    assert 'needs the package onnxruntime' in text
    assert text.endswith('pip install "mcod-plugin[export]"')


def test_missing_data(refused, run):
    cfg = read_config(run.config)
    cfg.val_dataloader.dataset = dict(
        type='CIFAR10',
        data_root='nowhere',
        split='test',
        pipeline=[dict(type='PackInputs')])
    text = refused(cfg=cfg, verify_accuracy=True)
    assert text.startswith('--verify-accuracy: val_dataloader.dataset: data '
                           'set CIFAR10 is missing: looked for ')


def test_wrong_weights_are_withdrawn(refused, monkeypatch):
    write = export_module.WRITERS['safetensors']

    def write_wrongly(model, folder):
        with torch.no_grad():
            model.classifier.head.fc.bias[3] += 0.01
            write(model, folder)

    monkeypatch.setitem(export_module.WRITERS, 'safetensors', write_wrongly)
    text = refused()
    assert text.startswith(
        'the export of cnn as safetensors was withdrawn: '
        'its logits differ from those in the cohort by 0.01')


def test_what_cannot_be_opened_is_withdrawn(refused, monkeypatch):

    def write_nonsense(model, folder):
        Path(folder, 'config.py').write_text('model = dict(type="Nonsense")')
        torch.save(dict(state_dict={}), Path(folder, 'model.pth'))

    monkeypatch.setitem(export_module.WRITERS, 'mmpretrain', write_nonsense)
    text = refused(formats=['mmpretrain'])
    assert 'cannot be opened in a fresh process' in text
    assert 'Nonsense is not in the mmpretrain::model registry' in text


def test_random_images(run, tmp_path):
    cfg = read_config(run.config)
    cfg.val_dataloader.dataset = dict(
        type='CIFAR10',
        data_root='nowhere',
        split='test',
        pipeline=[dict(type='PackInputs')])
    cfg.test_dataloader = cfg.val_dataloader
    exports = export_branches(cfg, run.checkpoint, ['cnn'], ['safetensors'],
                              str(tmp_path / 'new' / 'out'))
    assert exports.images.startswith('32 random images')
    assert exports.metrics == {'cnn': {}}
    assert exports.items[0].difference <= 1e-5
    config = json.loads(
        (tmp_path / 'new/out/cnn/safetensors/config.json').read_text())
    assert config['metrics'] == {}
    assert config['preprocessing']['input_shape'] == [3, 16, 16]
    assert not Path('nowhere').exists()


def test_top1():
    logits = np.array([[1., 2.], [3., 0.], [0., 1.], [5., 1.]])
    assert _top1(logits, np.array([1, 0, 0, 0])) == {'top1': 75}
    assert _top1(logits, None) == {}
