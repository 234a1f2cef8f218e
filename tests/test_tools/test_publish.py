"""Publishing from the command line."""
import importlib.util
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HUB = Path(__file__).parents[1] / 'test_publish' / 'hub.py'
spec = importlib.util.spec_from_file_location('publish_hub', HUB)
hub_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub_module)


@pytest.fixture(scope='module')
def done(run_tool, trained, tmp_path_factory):
    """The tiny run, published: what the tool printed, and the folder."""
    cwd = tmp_path_factory.mktemp('published')
    with hub_module.running_hub() as hub:
        done = run_tool(
            'publish',
            trained.work_dir,
            '--out',
            'cards/tiny',
            '--push',
            'user/tiny',
            cwd=cwd,
            env=hub.env,
            fresh=True)
    assert done.code == 0, done.err
    done.cwd, done.hub, done.cards = cwd, hub, cwd / 'cards' / 'tiny'
    return done


def test_what_it_tells(done, trained):
    assert done.err == ''
    for name in ('resnet', 'vgg', 'ensemble'):
        last = re.findall(rf'{name}/top1: ([\d.]+)', trained.out)[-1]
        assert re.search(rf'│ {name} +│ +{float(last):.2f} │', done.out)
    assert ('on 40 images of the validation data (scikit-learn digits, split '
            'test, indices=40).') in done.out
    assert os.listdir(done.cwd) == ['cards']
    assert os.listdir(done.cwd / 'cards') == ['tiny']


def check_number(done, run_tool, card, **kwargs):
    """The command on a card prints what the card says."""
    text = (done.cards / card).read_text()
    command = re.search(r'```bash\npython tools/test.py (.*?)```', text,
                        re.DOTALL)[1].replace('\\', ' ').split()
    expected = re.search(r'prints, among other things:\n\n```\n(.*?)```', text,
                         re.DOTALL)[1].splitlines()
    printed = run_tool('test', *command, cwd=done.cwd, **kwargs)
    assert printed.code == 0, printed.err
    assert expected
    for line in expected:
        assert line in printed.out


@pytest.mark.parametrize('card', ['README.md', 'vgg/README.md'])
def test_the_number_is_reproduced(done, run_tool, card):
    check_number(done, run_tool, card)


OTHER = """
custom_imports['imports'].append('own_parts.hooks')
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root='images',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
test_evaluator = dict(type='Accuracy', topk=(5, ))
"""


@pytest.fixture(scope='module')
def other(run_tool, trained, tmp_path_factory):
    """The same of a run that was not validated, has image files to be tested
    on, a metric of the toolbox, and a package of the user's own."""
    cwd = tmp_path_factory.mktemp('other')
    rng = np.random.default_rng(0)
    for name in '0123456789':
        (cwd / 'images' / name).mkdir(parents=True)
        for index in range(2):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(cwd / f'images/{name}/{index}.png')
    (cwd / 'own_parts').mkdir()
    (cwd / 'own_parts' / 'hooks.py').touch()
    (cwd / 'work').mkdir()
    text = (trained.work_dir / 'tiny.py').read_text()
    (cwd / 'work' / 'tiny.py').write_text(text + OTHER)
    path = os.pathsep.join((str(cwd), os.environ.get('PYTHONPATH', '')))
    env = dict(PYTHONPATH=path)
    done = run_tool(
        'publish',
        'work',
        '--checkpoint',
        trained.work_dir / 'epoch_2.pth',
        '--out',
        'cards',
        cwd=cwd,
        env=env,
        fresh=True)
    assert done.code == 0, done.err
    done.cwd, done.env, done.cards = cwd, env, cwd / 'cards'
    return done


def test_without_validation(other):
    assert 'on 20 images of the test data (CustomDataset).' in other.out
    for name in ('.', 'vgg'):
        card = (other.cards / name / 'README.md').read_text()
        assert 'on 20 images of the test data (CustomDataset), in' in card
        assert ('The accuracy is on the test data of the config; the run was '
                'not validated.') in card
        assert 'validation data' not in card


def test_packages_of_the_users_own(other):
    for name in ('.', 'vgg'):
        card = (other.cards / name / 'README.md').read_text()
        assert 'with mmpretrain, mcod_plugin and own_parts installed' in card


@pytest.mark.parametrize('card', ['README.md', 'vgg/README.md'])
def test_the_number_is_reproduced_with_other_metrics(other, run_tool, card):
    check_number(other, run_tool, card, env=other.env, fresh=True)


def test_the_code_reads_image_files(other, run_tool):
    """And gives what the test of the same card gives."""
    card = (other.cards / 'vgg' / 'README.md').read_text()
    code = re.search('```python\n(.*?)```', card, re.DOTALL)[1]
    assert "classify('image.png')" in code
    shutil.copy(other.cwd / 'images' / '0' / '0.png',
                other.cards / 'vgg' / 'image.png')
    env = {**os.environ, **other.env}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                          cwd=other.cards / 'vgg',
                          env=env,
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    score = float(done.stdout.split()[-1])
    config = next((other.cards / 'vgg').glob('*.pth'))
    tested = run_tool(
        'test',
        'cards/vgg/config.py',
        config,
        '--out',
        'found.pkl',
        cwd=other.cwd,
        env=other.env,
        fresh=True)
    assert tested.code == 0, tested.err
    first = pickle.loads((other.cwd / 'found.pkl').read_bytes())[0]
    assert score == pytest.approx(float(first['pred_score'].max()), abs=1e-5)


def test_dry_run(run_tool, trained, tmp_path):
    """It tells what would be done, and does none of it."""
    with hub_module.running_hub() as hub:
        done = run_tool(
            'publish',
            trained.work_dir,
            '--out',
            'cards/tiny',
            '--push',
            'user/tiny',
            '--data-name',
            'Ciphers of the bank',
            '--license',
            'cc-by-4.0',
            '--dry-run',
            cwd=tmp_path,
            env=hub.env,
            fresh=True)
    assert done.code == 0, done.err
    assert 'Dry run: nothing was written to cards/tiny.' in done.out
    assert 'Data: Ciphers of the bank. Licence: cc-by-4.0.' in done.out
    for repo in ('user/tiny', 'user/tiny-resnet', 'user/tiny-vgg'):
        assert f'Would be uploaded to {repo}.' in done.out
    assert os.listdir(tmp_path) == [] and hub.repos == {}
    # All cards were checked, and the licence before there was any.
    assert len(hub.checked) == 4


def test_pushed(done):
    hub = done.hub
    assert set(hub.repos) == {'user/tiny', 'user/tiny-resnet', 'user/tiny-vgg'}
    assert 'Uploaded to user/tiny-vgg.' in done.out
    for repo, files in hub.repos.items():
        folder = done.cards / repo.removeprefix('user/tiny').strip('-')
        assert set(files) == {
            path.name
            for path in folder.iterdir() if path.is_file()
        } - {'metafile.yml'}
        for name, content in files.items():
            if name != 'README.md':
                assert content == (folder / name).read_bytes()
        # The links between cards are those of the hub.
        card = files['README.md'].decode()
        assert card in hub.checked
        assert 'README.md)' not in card
        others = {*hub.repos} - {repo}
        for other in others:
            assert f']({hub.env["HF_ENDPOINT"]}/{other})' in card


def test_pushed_again(done, run_tool, trained):
    """Weights of before do not stay beside the new ones."""
    with hub_module.running_hub() as hub:
        hub.repos['user/tiny-vgg'] = {'tiny_vgg_old.pth': b'', 'notes.md': b''}
        again = run_tool(
            'publish',
            trained.work_dir,
            '--out',
            'again',
            '--push',
            'user/tiny',
            '--private',
            cwd=done.cwd,
            env=hub.env,
            fresh=True)
    shutil.rmtree(done.cwd / 'again')
    assert again.code == 0, again.err
    weights = [name for name in hub.repos['user/tiny-vgg'] if 'pth' in name]
    assert len(weights) == 1 and weights != ['tiny_vgg_old.pth']
    assert 'notes.md' in hub.repos['user/tiny-vgg']
    assert hub.private == {'user/tiny', 'user/tiny-resnet', 'user/tiny-vgg'}


def test_a_licence_that_the_hub_does_not_know(run_tool, trained, tmp_path):
    """It is told before there is work to lose."""
    with hub_module.running_hub() as hub:
        done = run_tool(
            'publish',
            trained.work_dir,
            '--out',
            'cards',
            '--push',
            'user/tiny',
            '--license',
            'nonsense',
            cwd=tmp_path,
            env=hub.env,
            fresh=True)
    assert done.code == 2 and done.out == ''
    assert done.err.startswith('error: --license nonsense: the hub does not')
    assert done.err.count('\n') == 1 and os.listdir(tmp_path) == []


def test_the_hub_refuses(run_tool, trained, tmp_path):
    with hub_module.running_hub() as hub:
        hub.refuses = 'user/tiny'
        done = run_tool(
            'publish',
            trained.work_dir,
            '--out',
            'cards/tiny',
            '--push',
            'user/tiny',
            cwd=tmp_path,
            env=hub.env,
            fresh=True)
    assert done.code == 2 and done.err.count('\n') == 1, done.err
    for part in ('--push user/tiny', '403', 'uploaded so far', 'cards/tiny'):
        assert part in done.err
    # What was written stays.
    assert (tmp_path / 'cards' / 'tiny' / 'README.md').is_file()


def test_push_without_a_token(run_tool, trained, tmp_path):
    with hub_module.running_hub() as hub:
        done = run_tool(
            'publish',
            trained.work_dir,
            '--out',
            'cards/tiny',
            '--push',
            'user/tiny',
            cwd=tmp_path,
            env=dict(hub.env, HF_TOKEN='hf_wrong'),
            fresh=True)
    assert done.code == 2 and done.err.count('\n') == 1, done.err
    assert '--push user/tiny: the hub does not let in' in done.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('args, parts', [
    (['none', '--out', 'out'], ['WORK_DIR none', 'no such folder']),
    (['.', '--out', 'out'], ['WORK_DIR .', 'one config', 'found none']),
    (['RUN'], ['--out']),
    (['RUN', '--out', '.'], ['--out', 'not empty']),
    (['RUN', '--out', 'a b'], ['--out', "'a b'"]),
    (['RUN', '--out', 'out', '--solo', 'RUN'], ['--solo', 'were distilled']),
    (['RUN', '--out', 'out', '--checkpoint', 'no.pth'
      ], ['no.pth', 'no such file']),
    (['RUN', '--out', 'out', '--push', 'tiny'], ['--push', 'USER/REPO']),
    (['RUN', '--out', 'out', '--sol', 'RUN'], []),
])
def test_mistakes(run_tool, trained, tmp_path, args, parts):
    (tmp_path / 'here').touch()
    work_dir = str(trained.work_dir)
    args = [work_dir if arg == 'RUN' else arg for arg in args]
    done = run_tool('publish', *args, cwd=tmp_path)
    assert done.code == 2 and done.out == ''
    assert done.err.startswith('error: ') and done.err.count('\n') == 1
    for part in parts:
        assert part in done.err
    assert os.listdir(tmp_path) == ['here']


def test_without_data(run_tool, trained, tmp_path):
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    text = (trained.work_dir / 'tiny.py').read_text()
    (work_dir / 'tiny.py').write_text(
        f'{text}\nval_dataloader["dataset"] = dict(\n'
        '    type="CIFAR10", data_root="nowhere", split="test",\n'
        '    pipeline=[dict(type="PackInputs")])\n')
    done = run_tool(
        'publish',
        work_dir,
        '--checkpoint',
        trained.work_dir / 'epoch_2.pth',
        '--out',
        'out',
        cwd=tmp_path)
    assert done.code == 2 and done.err.count('\n') == 1
    assert 'cannot be evaluated without the validation data' in done.err
    assert 'data set CIFAR10 is missing' in done.err
    assert os.listdir(tmp_path) == ['work']


def test_help(run_tool, tmp_path):
    done = run_tool('publish', '--help', cwd=tmp_path)
    assert done.code == 0 and '--solo' in done.out and '--push' in done.out
