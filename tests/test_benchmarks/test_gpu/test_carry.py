import hashlib
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from carry import check_target, pack, status, unpack
from mcod_plugin.compare.plan import Run
from mcod_plugin.compare.state import state
from mcod_plugin.errors import ConfigError


@pytest.fixture
def make_runs(tmp_path):
    """Makes the runs of a study on a machine, each a folder: a finished one,
    one that another still needs, one stopped on the way, one that is to be
    begun."""

    def make(machine, changed=None):
        folder = tmp_path / machine
        cfg = Config(dict(train_cfg=dict(max_epochs=20)))
        needs = dict(kd=['taught'])
        return [
            Run(f'{name}_seed0', name, 0, cfg,
                'other' if name == changed else f'hash of {name}',
                str(folder / 'work' / f'{name}_seed0'),
                str(folder / 'results' / f'{name}_seed0.json'),
                [f'{need}_seed0' for need in needs.get(name, ())])
            for name in ('solo', 'taught', 'kd', 'dml')
        ]

    return make


def finish(run):
    path = Path(run.result)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(config_hash=run.config_hash)))


def train(run, *epochs):
    folder = Path(run.work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config_hash').write_text(f'{run.config_hash}\n')
    # Which no compression makes smaller, as weights.
    noise = np.random.RandomState(list(run.name.encode()))
    for epoch in epochs:
        (folder / f'epoch_{epoch}.pth').write_bytes(noise.bytes(5000))


def files(folder):
    return sorted(
        str(path.relative_to(folder)) for path in Path(folder).rglob('*')
        if path.is_file())


@pytest.fixture
def here(make_runs):
    """A study on its way."""
    runs = make_runs('here')
    solo, taught, kd, dml = runs
    for run in (solo, taught):
        train(run, 19, 20)
        finish(run)
    train(dml, 8, 10)
    Path(dml.work_dir, 'train.log').write_text('log')
    return runs


@pytest.fixture
def there(make_runs):
    return make_runs('there')


@pytest.fixture
def packed(here, tmp_path):
    folder = tmp_path / 'state'
    pack('study', here, str(folder), part_size=4000)
    return folder


def test_everything_that_is_needed_arrives(packed, there, tmp_path):
    assert [state(run) for run in there] == ['to do'] * 4
    unpack('study', there, [str(packed)])
    assert [state(run) for run in there] == ['done', 'done', 'to do', 'begun']
    # What is gone on from, whatever was there before.
    for name, epoch in (('dml', 10), ('taught', 20)):
        last = tmp_path / 'there' / f'work/{name}_seed0/last_checkpoint'
        assert last.read_text().endswith(f'{name}_seed0/epoch_{epoch}.pth')
        last.unlink()
    assert files(tmp_path / 'there') == [
        'results/solo_seed0.json', 'results/taught_seed0.json',
        'work/dml_seed0/config_hash', 'work/dml_seed0/epoch_10.pth',
        'work/taught_seed0/config_hash', 'work/taught_seed0/epoch_20.pth'
    ]
    for name in files(tmp_path / 'there'):
        assert ((tmp_path / 'there' /
                 name).read_bytes() == (tmp_path / 'here' / name).read_bytes())


def test_parts(packed):
    manifest = json.loads((packed / 'manifest.json').read_text())
    for kind, number in (('results', 1), ('checkpoints', 3)):
        parts = manifest['archives'][kind]
        assert [part['name'] for part in parts
                ] == [f'{kind}.{index:03}' for index in range(number)]
        sizes = [part['size'] for part in parts]
        assert all(size == 4000 for size in sizes[:-1])
        assert 0 < sizes[-1] <= 4000
        for part in parts:
            data = (packed / part['name']).read_bytes()
            assert len(data) == part['size']
            assert hashlib.sha256(data).hexdigest() == part['sha256']
    assert files(packed) == [
        'checkpoints.000', 'checkpoints.001', 'checkpoints.002',
        'manifest.json', 'results.000', 'status.md'
    ]


def test_results_can_be_had_by_hand(packed, here):
    with tarfile.open(packed / 'results.000') as archive:
        assert archive.getnames() == ['solo_seed0.json', 'taught_seed0.json']
        data = archive.extractfile('solo_seed0.json').read()
    assert data == Path(here[0].result).read_bytes()


def test_parts_in_several_folders(packed, there, tmp_path):
    other = tmp_path / 'second call'
    other.mkdir()
    for name in ('checkpoints.001', 'manifest.json'):
        os.rename(packed / name, other / name)
    unpack('study', there, [str(packed), str(other)])
    assert state(there[3]) == 'begun'


def test_results_only(packed, there, tmp_path):
    for path in packed.glob('checkpoints.*'):
        path.unlink()
    unpack('study', there, [str(packed)], results_only=True)
    assert files(tmp_path / 'there') == [
        'results/solo_seed0.json', 'results/taught_seed0.json'
    ]


def test_status(here, packed):
    text = (packed / 'status.md').read_text()
    assert text == status('study', here)
    assert text.splitlines() == [
        'study: 2 of 4 runs are done', '', '| run | state |', '|---|---|',
        '| solo_seed0 | done |', '| taught_seed0 | done |',
        '| kd_seed0 | to do |', '| dml_seed0 | begun, 10 of 20 epochs |'
    ]


def test_a_result_that_is_there_stays(packed, there):
    finish(there[0])
    with open(there[0].result) as file:
        longer = dict(json.load(file), note='newer')
    Path(there[0].result).write_text(json.dumps(longer))
    unpack('study', there, [str(packed)])
    assert json.loads(Path(there[0].result).read_text()) == longer


def test_later_checkpoint_counts(packed, there):
    train(there[3], 12)
    unpack('study', there, [str(packed)])
    assert 'begun, 12 of 20 epochs' in status('study', there)


def test_nothing_to_carry(there, make_runs, tmp_path):
    names = pack('study', there, str(tmp_path / 'state'))
    assert names == ['manifest.json', 'status.md']
    unpack('study', make_runs('else'), [str(tmp_path / 'state')])
    assert not (tmp_path / 'else').exists()


def test_packed_again(packed, here):
    """The state replaces the last one, of which nothing is left."""
    (packed.parent / 'state.part').mkdir()
    (packed.parent / 'state.part' / 'left over').touch()
    train(here[3], 15)
    pack('study', here, f'{packed}/')
    assert files(packed) == [
        'checkpoints.000', 'manifest.json', 'results.000', 'status.md'
    ]
    assert '15 of 20' in (packed / 'status.md').read_text()
    assert not list(packed.parent.glob('state.*'))


def test_cut_off_while_packing(packed, here, monkeypatch):
    before = {name: (packed / name).read_bytes() for name in files(packed)}
    os.remove(here[0].result)
    train(here[0], 10)
    # The disk is full, or the like.
    monkeypatch.setattr('tempfile.TemporaryFile', raise_full)
    with pytest.raises(OSError, match='full'):
        pack('study', here, str(packed))
    assert before == {
        name: (packed / name).read_bytes()
        for name in files(packed)
    }


def test_killed_while_packing(packed, here, there, monkeypatch):
    """Just before the new state took the place of the old one."""
    os.rename(packed, f'{packed}.old')
    unpack('study', there, [f'{packed}/'])
    assert [state(run) for run in there] == ['done', 'done', 'to do', 'begun']
    before = files(packed)
    os.rename(packed, f'{packed}.old')
    monkeypatch.setattr('tempfile.TemporaryFile', raise_full)
    with pytest.raises(OSError, match='full'):
        pack('study', here, str(packed))
    assert files(packed) == before


def raise_full(*args, **kwargs):
    raise OSError('full')


def damage(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit(path, **changes):
    manifest = json.loads(path.read_text())
    manifest.update(changes)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize('harm, words', [
    (lambda folder: os.remove(folder / 'checkpoints.001'),
     ('checkpoints.001', 'missing')),
    (lambda folder: os.remove(folder / 'results.000'),
     ('results.000', 'missing')),
    (lambda folder: damage(folder / 'checkpoints.002'),
     ('checkpoints.002', 'SHA-256')),
    (lambda folder: os.truncate(folder / 'checkpoints.002', 7),
     ('checkpoints.002', '7 bytes')),
    (lambda folder: os.remove(folder / 'manifest.json'), ('manifest.json', )),
    (lambda folder: os.truncate(folder / 'manifest.json', 50),
     ('manifest.json', 'damaged')),
    (lambda folder: edit(folder / 'manifest.json', runs=7),
     ('manifest.json', 'damaged')),
    (lambda folder: edit(folder / 'manifest.json', archives={}),
     ('manifest.json', 'results')),
    (lambda folder: edit(folder / 'manifest.json', format=2),
     ('manifest.json', 'format 1', '2')),
    (lambda folder: edit(folder / 'manifest.json', study='other'),
     ('other', 'study')),
    (lambda folder: edit(folder / 'manifest.json', runs=dict(kd_seed7='')),
     ('kd_seed7', 'kd_seed0')),
])
def test_bad_states(packed, there, tmp_path, harm, words):
    harm(packed)
    with pytest.raises(ConfigError) as caught:
        unpack('study', there, [str(packed)])
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / 'there').exists()


def test_other_settings(packed, make_runs, tmp_path):
    with pytest.raises(ConfigError, match='dml_seed0 .* hash of dml, not oth'):
        unpack('study', make_runs('there', changed='dml'), [str(packed)])
    assert not (tmp_path / 'there').exists()


def test_result_of_another_config(packed, here, make_runs):
    finish(make_runs('there', changed='solo')[0])
    with pytest.raises(ConfigError, match='another config'):
        unpack('study', make_runs('there'), [str(packed)])
    finish(make_runs('here', changed='solo')[0])
    before = files(packed)
    with pytest.raises(ConfigError, match='another config'):
        pack('study', here, str(packed))
    assert files(packed) == before


@pytest.mark.parametrize('name', [
    '../escape.json', 'solo_seed0.json/x', 'nobody_seed0.json',
    '/tmp/escape.json'
])
def test_names_that_lead_elsewhere(packed, there, tmp_path, name):
    """A manifest that is right does not make an archive a good one."""
    source = tmp_path / 'source'
    source.write_text('{}')
    with tarfile.open(packed / 'results.000', 'w:gz') as archive:
        archive.add(source, 'solo_seed0.json')
        archive.add(source, name)
    data = (packed / 'results.000').read_bytes()
    manifest = json.loads((packed / 'manifest.json').read_text())
    manifest['archives']['results'][0].update(
        size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (packed / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match='of no run'):
        unpack('study', there, [str(packed)])
    assert files(tmp_path / 'there') == []


def test_folders_that_are_no_state(packed, here, tmp_path):
    for folder in (packed, tmp_path / 'new'):
        check_target(str(folder))
    (tmp_path / 'empty').mkdir()
    check_target(str(tmp_path / 'empty'))
    precious = tmp_path / 'precious'
    precious.mkdir()
    (precious / 'thesis.txt').touch()
    for path in (precious, precious / 'thesis.txt'):
        with pytest.raises(ConfigError, match='precious'):
            pack('study', here, str(path))
    assert files(precious) == ['thesis.txt']
