"""What is published is what was trained, and the cards are true."""
import hashlib
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from mmengine.config import Config
from mmpretrain import get_model
from mmpretrain.apis.model import ModelHub
from PIL import Image
from safetensors.torch import load_file

from mcod_plugin.alone.cohort import load_cohort
from mcod_plugin.datasets import Digits
from mcod_plugin.errors import ConfigError
from mcod_plugin.publish import publish_cohort
from mcod_plugin.publish.card import branch_card, cohort_card
from mcod_plugin.publish.publication import Hub
from mcod_plugin.publish.trained_run import read_run
from mcod_plugin.publish.weights import published_config
from mcod_plugin.utils.machine import describe_machine
from .conftest import train

ROOT = Path(__file__).parents[2]
NAMES = ('resnet', 'vgg', 'ensemble')
VGG = dict(
    backbone=dict(type='mcod_plugin.CifarVGG', depth=11, width=4),
    head=dict(type='LinearClsHead', num_classes=10),
    input_size=32)
# The plugin must not be found, as with whoever has MMPretrain alone.
WITHOUT_PLUGIN = "import sys; sys.modules['mcod_plugin'] = None\n"


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def folder_of(published, name):
    return published.out / published.members[name].folder


def card_of(published, name):
    return (folder_of(published, name) / 'README.md').read_text()


def fenced(text, language):
    return re.search(f'```{language}\n(.*?)```', text, re.DOTALL)[1]


@pytest.mark.parametrize('name', NAMES)
def test_weights_are_those_of_the_run(published, runs, name):
    member = published.members[name]
    path = folder_of(published, name) / member.weights
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert re.fullmatch(rf'tiny_{name}_20\d{{6}}-{digest[:8]}\.pth',
                        member.weights)
    assert member.sha256 == digest and digest in card_of(published, name)
    content = torch.load(path, weights_only=True)
    assert set(content) == {'state_dict', 'meta'}
    trained = torch.load(
        runs.cohort / 'epoch_3.pth', weights_only=True)['state_dict']
    prefix = f'branches.{name}.' if member.folder else ''
    trained = {
        key[len(prefix):]: value
        for key, value in trained.items() if key.startswith(prefix)
    }
    for weights in (content['state_dict'],
                    load_file(path.with_name('model.safetensors'))):
        assert set(weights) == set(trained)
        assert all(
            torch.equal(value, trained[key]) for key, value in weights.items())


@pytest.mark.parametrize('name', NAMES)
def test_accuracy_is_that_of_the_file(published, name):
    member = published.members[name]
    folder = folder_of(published, name)
    model = get_model(
        str(folder / 'config.py'), pretrained=str(folder / member.weights))
    items = Digits(split='test', indices=120, pipeline=[])
    samples = [items[index] for index in range(len(items))]
    pixels = torch.from_numpy(
        np.stack([sample['img'].transpose(2, 0, 1) for sample in samples]))
    if name == 'vgg':
        pixels = torch.nn.functional.interpolate(
            pixels.float(), (32, 32),
            mode='bilinear',
            antialias=True,
            align_corners=False)
    with torch.no_grad():
        scores = model(model.data_preprocessor(dict(inputs=pixels))['inputs'])
    labels = torch.tensor([sample['gt_label'] for sample in samples])
    best = scores.topk(5)[1] == labels[:, None]
    assert member.metrics == pytest.approx({
        'top1':
        100 * float(best[:, 0].float().mean()),
        'top5':
        100 * float(best.any(1).float().mean())
    })
    parameters = sum(value.numel() for value in model.parameters())
    assert member.parameters == parameters
    row = next(
        line for line in card_of(published, name).splitlines()
        if f'**{name}**' in line)
    assert f' {member.metrics["top1"]:.2f} |' in row
    assert f' {parameters:,} |' in row


def image_of(folder, index=3):
    """An image of the data, as a file in a folder, and its pixels."""
    pixels = Digits(split='test', pipeline=[])[index]['img']
    Image.fromarray(pixels).save(folder / 'image.png')
    return torch.from_numpy(pixels.transpose(2, 0, 1))[None]


def run_code(code, folder):
    """The class and the score that code prints."""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                          cwd=folder,
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    predicted, score = done.stdout.splitlines()[-1].split()
    return predicted, float(score)


@pytest.mark.parametrize('name', NAMES)
def test_code_on_the_card_runs(published, name, tmp_path):
    card = card_of(published, name)
    code = fenced(card, 'python')
    needs = 'mmpretrain and mcod_plugin installed' in card
    assert needs == (name != 'resnet')
    if not needs:
        code = WITHOUT_PLUGIN + code
    folder = tmp_path / name
    shutil.copytree(folder_of(published, name), folder)
    pixels = image_of(folder)
    member = published.members[name]
    model = get_model(
        str(folder / 'config.py'), pretrained=str(folder / member.weights))
    if name == 'vgg':
        # The image is a file, which is resized as files are.
        size = member.input_shape[1:]
        image = Image.open(folder / 'image.png').resize(
            size, Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image).transpose(2, 0, 1))[None]
    inputs = model.data_preprocessor(dict(inputs=pixels))['inputs']
    with torch.no_grad():
        score, index = model(inputs).softmax(1)[0].max(0)
    found = run_code(code, folder)
    assert found == (str(int(index)), pytest.approx(float(score), abs=1e-5))


def test_code_on_the_card_executes_no_pickle(published, tmp_path):
    folder = tmp_path / 'resnet'
    shutil.copytree(folder_of(published, 'resnet'), folder)
    image_of(folder)
    executed = tmp_path / 'executed'
    (folder / published.members['resnet'].weights).write_bytes(
        pickle.dumps(dict(state_dict=Payload(executed))))
    code = fenced(card_of(published, 'resnet'), 'python')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                          cwd=folder,
                          capture_output=True,
                          text=True)
    assert done.returncode != 0 and 'weights_only' in done.stderr
    assert not executed.exists()


def run_test(member, folder, out):
    """The lines that tools/test.py prints of published files, and the
    predictions."""
    done = subprocess.run([
        sys.executable,
        str(ROOT / 'tools' / 'test.py'), 'config.py', member.weights,
        '--work-dir',
        str(out), '--out',
        str(out / f'{member.name}.pkl')
    ],
                          cwd=folder,
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, pickle.loads((out / f'{member.name}.pkl').read_bytes())


def test_the_number_is_what_the_config_gives(published, tmp_path):
    """That of the branch with images of its own size as well, whose scores
    are those that it has in the cohort."""
    member = published.members['vgg']
    folder = folder_of(published, 'vgg')
    text, alone = run_test(member, folder, tmp_path)
    claimed = f'accuracy/top1: {member.metrics["top1"]:.4f}'
    assert f'```\n{claimed}\n```' in card_of(published, 'vgg')
    assert claimed in text
    _, together = run_test(published.members['ensemble'], published.out,
                           tmp_path)
    assert len(alone) == len(together) == 120
    for one, other in zip(alone, together):
        torch.testing.assert_close(
            one['pred_score'], other['pred_score_vgg'], rtol=0, atol=1e-5)


def test_own_size_of_images_that_stay_in_memory(runs, tmp_path):
    """The config of such a branch could not resize as the cohort does."""
    work_dir = tmp_path / 'work'
    shutil.copytree(runs.cohort, work_dir)
    config = next(work_dir.glob('*.py'))
    cfg = Config.fromfile(config)
    cfg.val_dataloader.dataset.indices = None
    cfg.val_dataloader.dataset.per_class = (0, 3)
    cfg.dump(config)
    with pytest.raises(
            ConfigError,
            match=r'^model\.branches\.vgg\.input_size: .*per_class'):
        publish_cohort(str(work_dir), str(tmp_path / 'out'))
    assert os.listdir(tmp_path) == ['work']


def test_front_matter(published):
    for name, member in published.members.items():
        card = ModelCard.load(folder_of(published, name) / 'README.md')
        data = card.data
        assert data.model_name == f'tiny_{name}'
        assert data.pipeline_tag == 'image-classification'
        assert data.datasets is None  # The hub does not have the digits.
        top1, top5, calibration = data.eval_results
        assert (top1.dataset_type, top1.dataset_split) == ('digits', 'test')
        assert top1.metric_value == round(member.metrics['top1'], 4)
        assert top5.metric_value == round(member.metrics['top5'], 4)
        assert calibration.metric_value == round(member.calibration_error, 4)
        assert (data.license, data.library_name) == ('unknown', 'mmpretrain')


def test_cards_link_each_other(published):
    found = 0
    for name in NAMES:
        folder = folder_of(published, name)
        for target in re.findall(r'\]\(([^)]+)\)', card_of(published, name)):
            if not target.startswith('https://'):
                assert (folder / target).is_file(), target
                found += 1
    assert found >= 10


def test_branches_are_ranked(published):
    ranks = re.findall(r'^\| (\d) +\| \[(\w+)\]',
                       card_of(published, 'ensemble'), re.MULTILINE)
    accuracies = [published.members[name].metrics['top1'] for _, name in ranks]
    assert [rank for rank, _ in ranks] == ['1', '2']
    assert accuracies == sorted(accuracies, reverse=True)


def test_gain_is_over_solo(published, runs, tmp_path):
    alone = publish_cohort(str(runs.solo), str(tmp_path / 'alone'))
    text = (tmp_path / 'alone' / 'README.md').read_text()
    assert 'Gain over solo' not in text
    assert 'never distilled' in text and 'MCOD' not in text
    assert 'online-distillation' not in text
    index = yaml.safe_load((tmp_path / 'alone' / 'metafile.yml').read_text())
    assert 'Paper' not in index['Collections'][0]
    for member in alone.members:
        ours = published.members[member.name]
        assert ours.solo == member.metrics
        gain = ours.metrics['top1'] - member.metrics['top1']
        card = card_of(published, member.name)
        row = (member.name, f'{member.metrics["top1"]:.2f}',
               f'{ours.metrics["top1"]:.2f}', f'{gain:+.2f}')
        assert re.search(r'\| ' + r' +\| +'.join(map(re.escape, row)) + r' \|',
                         card)
        assert 'Seed of the cohort: 0, of solo: 1' in card
        assert 'One seed proves little' in card


def test_figures(published):
    for name, files in dict(
            resnet=['confusion.png', 'curves.png'],
            ensemble=[
                'confusion.png', 'curves.png', 'diversity.png', 'schedule.png'
            ]).items():
        folder = folder_of(published, name)
        assert sorted(
            folder.glob('*.png')) == [folder / file for file in files]
        for file in files:
            assert (folder / file).stat().st_size < 150_000
            assert Image.open(folder / file).width > 400
            assert f']({file})' in card_of(published, name)


def test_metafile(published):
    path = published.out / 'metafile.yml'
    content = yaml.safe_load(path.read_text())
    for model in content['Models']:
        assert (published.out / model['Weights']).is_file()
        assert model['Metadata']['FLOPs'] > 0
    assert [branch['Name'] for branch in content['Models'][-1]['Cohort']
            ] == [member.name for member in published.publication.branches]
    ModelHub.register_model_index(path, config_prefix=published.out)
    try:
        for name, member in published.members.items():
            found = ModelHub.get(f'tiny_{name}')
            assert found.results[0].metrics['Top 1 Accuracy'] == round(
                member.metrics['top1'], 4)
            assert found.metadata.parameters == member.parameters
            assert 'model' in found.config
    finally:
        for name in NAMES:
            del ModelHub._models_dict[f'tiny_{name}']


def test_published_config_is_the_recipe(published):
    text = (published.out / 'config.py').read_text()
    assert 'DiscontinuousKDHook' in text and 'max_epochs=3' in text
    assert 'work_dir' not in text and 'RunRecordHook' not in text


def test_the_published_test_is_in_single_precision(runs):
    """As the numbers on the cards are."""
    run = read_run('WORK_DIR', str(runs.cohort))
    run.cfg.test_cfg = run.cfg.val_cfg = dict(type='TestLoop', fp16=True)
    cohort = load_cohort(run.cfg, run.checkpoint, run.content)
    found = published_config(run.cfg, cohort)
    assert found.test_cfg == dict(type='TestLoop')
    # The recipe stays, and so does the config of the caller.
    assert found.val_cfg.fp16 and run.cfg.test_cfg.fp16


def test_weights_to_start_from_are_not_published(runs):
    run = read_run('WORK_DIR', str(runs.cohort))
    pretrained = dict(type='Pretrained', checkpoint='here/secret.pth')
    run.cfg.load_from = pretrained['checkpoint']
    run.cfg.model.init_cfg = pretrained
    run.cfg.model.branches.vgg.init_cfg = pretrained
    cohort = load_cohort(run.cfg, run.checkpoint, run.content)
    assert 'secret' not in published_config(run.cfg, cohort).pretty_text


def test_a_frozen_teacher_is_told(runs, published):
    run = read_run('WORK_DIR', str(runs.cohort))
    run.cfg.merge_from_dict({
        'model.teacher.members':
        'vgg',
        'model.branches.vgg.frozen':
        True,
        'model.branches.vgg.init_cfg':
        dict(type='Pretrained', checkpoint='vgg.pth')
    })
    publication = replace(published.publication, run=run)
    members = published.members
    cards = {
        name: branch_card(publication, members[name])
        for name in NAMES[:2]
    }
    cards['cohort'] = cohort_card(publication)
    told = 'side by side, distilled from the frozen vgg'
    assert f', trained with vgg {told}; top-1' in cards['resnet']
    assert ', which taught resnet and was not trained itself;' in cards['vgg']
    assert 'Best trained branch: [resnet](' in cards['cohort']
    for name, card in cards.items():
        assert told in card or name == 'vgg'
        assert 'MCOD' not in card and '21040357' not in card
        assert ModelCard(card).data.tags == [
            'mcod_plugin', 'distillation', 'mmpretrain'
        ]
        assert 'start: vgg from weights that were there before' in card
        assert 'anew, once config.py names weights to start from.' in card
        assert re.search(r'\| vgg +\| vgg\.pth +\| not known +\|', card)


def test_a_cohort_of_one_network(tmp_path):
    work_dir = train(
        tmp_path, **{
            'model.branches': dict(_delete_=True, vgg=VGG),
            'train_cfg.max_epochs': 1
        })
    publish_cohort(str(work_dir), str(tmp_path / 'cards'))
    cards = [(tmp_path / 'cards' / name / 'README.md').read_text()
             for name in ('.', 'vgg')]
    assert ('A cohort of 1 network for scikit-learn digits (vgg), trained '
            'alone, never distilled.\nOnly branch: [vgg](vgg/README.md) with '
            ) in cards[0]
    assert 'to be used alone; the ensemble is no other.' in cards[0]
    assert re.search(r'\| \*\*ensemble\*\* +\| the only branch +\|', cards[0])
    assert 'trained alone, never distilled; top-1' in cards[1]
    assert 'the only one in [its cohort](../README.md).' in cards[1]
    for card in cards:
        assert 'MCOD' not in card and '21040357' not in card
        assert ModelCard(card).data.tags == ['mcod_plugin', 'mmpretrain']
        table, _ = card.split('## Reproduce the number')
        assert 'disagree' not in table


def test_a_branch_of_timm(tmp_path):
    """timm opens its folder, and the code for that gives what MMPretrain
    gives."""
    work_dir = train(
        tmp_path, **{
            'model.branches':
            dict(
                _delete_=True,
                vit=dict(
                    backbone=dict(
                        type='TIMMBackbone',
                        model_name='test_vit',
                        img_size=16,
                        patch_size=4),
                    head=dict(type='LinearClsHead', num_classes=10)),
                # No classifier of timm, but its backbone.
                deep=dict(
                    backbone=dict(
                        type='TIMMBackbone', model_name='test_resnet'),
                    head=dict(
                        type='StackedLinearClsHead',
                        num_classes=10,
                        mid_channels=[8]))),
            'train_cfg.max_epochs':
            1
        })
    publication = publish_cohort(str(work_dir), str(tmp_path / 'cards'))
    folder = tmp_path / 'cards' / 'vit'
    card = (folder / 'README.md').read_text()
    assert {member.name for member in publication.members
            if member.timm} == {'vit'}
    for name in ('vit', 'deep'):
        text = (tmp_path / 'cards' / name / 'README.md').read_text()
        assert 'mmpretrain and timm installed' in text
    assert ModelCard(card).data.library_name == 'timm'
    image_of(folder)
    code = re.findall('```python\n(.*?)```', card, re.DOTALL)
    assert len(code) == 2 and 'import timm' in code[1]
    ours, timms = [run_code(WITHOUT_PLUGIN + text, folder) for text in code]
    assert ours[0] == timms[0]
    assert ours[1] == pytest.approx(timms[1], abs=1e-5)


def test_cards_of_the_hub(published):
    """Links and code lead there; all else is as in the folder."""
    repos = {'': 'me/tiny', 'resnet': 'me/tiny-resnet', 'vgg': 'me/tiny-vgg'}
    hub = Hub('https://hub.example', repos)
    for name in NAMES:
        member = published.members[name]
        there = branch_card(published.publication, member, hub) if (
            member.folder) else cohort_card(published.publication, hub)
        repo = repos[member.folder]
        assert f"folder = snapshot_download('{repo}')" in there
        assert 'README.md)' not in there
        for folder, other in repos.items():
            if folder != member.folder:
                assert f'](https://hub.example/{other})' in there
        for command in re.findall('```bash\n(.*?)```', there, re.DOTALL):
            # No place of this machine: what is downloaded is used.
            download, command = command.split('\n', 1)
            place = re.fullmatch(r'hf download me/(\S+) --local-dir (\S+)',
                                 download)
            assert place[1] == place[2]
            assert set(re.findall(r'(\S+)/\S+\.(?:py|pth)', command)) == {
                'tools', place[2]
            }


def test_images_of_one_channel(published):
    member = replace(
        published.members['resnet'], input_shape=(1, 16, 16), timm=True)
    publication = replace(published.publication, branches=[member])
    code = re.findall('```python\n(.*?)```', branch_card(publication, member),
                      re.DOTALL)
    assert len(code) == 2
    assert all("convert('L')" in text for text in code)


def test_commands_are_for_a_shell(published):
    member = published.members['vgg']
    sizes = {**member.sizes, 'my net.pth': 1}
    member = replace(member, weights='my net.pth', sizes=sizes)
    publication = replace(
        published.publication, place="my cards/c'1", branches=[member])
    lines = branch_card(publication, member).replace('\\\n', '')
    commands = [
        shlex.split(command)
        for command in re.findall(r'^python tools/.*$', lines, re.M)
    ]
    folder = f"my cards/c'1/{member.folder}"
    assert commands == [
        [
            'python', 'tools/test.py', f'{folder}/config.py',
            f'{folder}/my net.pth'
        ],
        ['python', 'tools/train.py', "my cards/c'1/config.py"],
    ]


def test_names_are_no_markdown(published):
    """They would be read as HTML, as emphasis or as formulas."""
    name = 'A <b> of *two* $1 | `x`'
    data = replace(published.publication.data, name=name)
    publication = replace(published.publication, data=data)
    for card in (cohort_card(publication),
                 branch_card(publication, publication.branches[0])):
        shown = r'A \<b> of \*two\* \$1 \| \`x\`'
        assert f'for {shown}' in card and f'\n{shown}: ' in card
        assert name not in card.partition('\n---\n')[2]
        assert ModelCard(card).data.eval_results[0].dataset_name == name


def test_training_is_told(published, runs):
    record = json.loads((runs.cohort / 'record.json').read_text())
    for name in NAMES:
        card = card_of(published, name)
        for part in ('epochs: 3 of 3, in batches of 32',
                     'data: scikit-learn digits, train, indices=256; '
                     'augmentation: `RandomCrop(', '`AdamW(lr=0.001',
                     "EnsembleTeacher(fusion='mean')", 'temperature=3.0',
                     'distilled in 66.7 % of the steps, mean weight 0.667',
                     'by method `mcod` of the study `digits`', 'seed: 0',
                     record['device'],
                     f'commit of mcod_plugin: {record["commit"][:12]}',
                     f'torch {record["versions"]["torch"]}',
                     '120 images of the validation data (scikit-learn digits, '
                     'split test, indices=120)', 'not a reproduction'):
            assert part in card, part


def test_without_a_record(runs, tmp_path):
    """The checkpoint tells a part."""
    work_dir = tmp_path / 'work'
    shutil.copytree(runs.cohort, work_dir)
    full = json.loads((work_dir / 'record.json').read_text())
    (work_dir / 'record.json').unlink()
    record = read_run('WORK_DIR', str(work_dir)).record
    machine = describe_machine()
    assert record['commit'] == machine['commit']
    assert record['versions'] == machine['versions']
    for key in ('kd_weight', 'until', 'train_loss', 'curves'):
        assert record[key] == full[key]
    assert 'outcome' in full and 'outcome' not in record


def test_what_a_checkpoint_hides_is_told(runs, published, tmp_path):
    checkpoint = tmp_path / 'best_vgg_top1_epoch_2.pth'
    shutil.copy(runs.cohort / 'epoch_2.pth', checkpoint)
    publish_cohort(
        str(runs.cohort), str(tmp_path / 'out'), checkpoint=str(checkpoint))
    card = (tmp_path / 'out' / 'vgg' / 'README.md').read_text()
    for part in ('epochs: 2 of 3', 'was chosen by its accuracy',
                 'is of epoch 2 of the 3 planned', 'Not compared with solo'):
        assert part in card
        assert part not in card_of(published, 'vgg')


def damage(runs, tmp_path):
    """A checkpoint of a run that has diverged."""
    content = torch.load(runs.cohort / 'epoch_3.pth', weights_only=True)
    content['state_dict']['branches.vgg.head.fc.bias'].fill_(float('nan'))
    torch.save(content, tmp_path / 'nan.pth')
    return tmp_path / 'nan.pth'


def test_nothing_is_left_of_a_failure(runs, tmp_path):
    checkpoint = damage(runs, tmp_path)
    with pytest.raises(ConfigError, match='not finite'):
        publish_cohort(
            str(runs.cohort),
            str(tmp_path / 'a' / 'b'),
            checkpoint=str(checkpoint))
    assert os.listdir(tmp_path) == ['nan.pth']


def test_a_branch_that_was_left_out(runs, tmp_path):
    content = torch.load(runs.cohort / 'epoch_3.pth', weights_only=True)
    content['message_hub']['runtime_info']['diverged'] = dict(
        vgg=dict(epoch=2, iteration=5, lr=1.))
    torch.save(content, tmp_path / 'diverged.pth')
    with pytest.raises(ConfigError, match='in iteration 5 vgg diverged'):
        publish_cohort(
            str(runs.cohort),
            str(tmp_path / 'out'),
            checkpoint=str(tmp_path / 'diverged.pth'))


@pytest.mark.parametrize('package', ['huggingface_hub', 'safetensors'])
def test_a_missing_package(runs, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'{package}.*\[publish\]'):
        publish_cohort(str(runs.cohort), str(tmp_path / 'out'))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('repo, branch', [
    ('user/' + 93 * 'x', 'resnet'),
    ('user/tiny-', None),
    ('user/ä', None),
])
def test_names_on_the_hub(runs, tmp_path, repo, branch):
    """The hub would refuse them when all of the work is done."""
    with pytest.raises(ConfigError) as info:
        publish_cohort(str(runs.cohort), str(tmp_path / 'out'), repo=repo)
    target = f'{repo}-{branch} (branch {branch})' if branch else repo
    assert str(info.value).startswith(
        f'--push {repo}: the hub takes no repository {target}: ')
    assert list(tmp_path.iterdir()) == []
