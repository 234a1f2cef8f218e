import pickle
import random
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.checkpoint import (DamagedCheckpoint, last_checkpoint,
                                          read_checkpoint,
                                          resumable_checkpoints,
                                          state_dict_mismatches)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_reads_tensors_and_containers(tmp_path):
    checkpoint = dict(
        state_dict={'a.weight': torch.arange(3.)},
        meta=dict(epoch=1, name='x', sizes=[1, (2, 3)], none=None))
    torch.save(checkpoint, tmp_path / 'good.pth')
    found = read_checkpoint(str(tmp_path / 'good.pth'))
    assert found['meta'] == checkpoint['meta']
    assert found['state_dict']['a.weight'].tolist() == [0, 1, 2]


def test_map_location(tmp_path):
    torch.save(dict(x=torch.zeros(2)), tmp_path / 'good.pth')
    found = read_checkpoint(str(tmp_path / 'good.pth'), map_location='meta')
    assert found['x'].is_meta


@pytest.mark.parametrize('name', ['nowhere.pth', '.'])
def test_missing(tmp_path, name):
    path = str(tmp_path / name)
    with pytest.raises(ConfigError) as info:
        read_checkpoint(path)
    assert str(info.value) == f'checkpoint {path}: there is no such file'


@pytest.mark.parametrize('content, words', [
    (dict(state_dict='weights'), 'state_dict must be a dict; got str'),
    (dict(state_dict=[1]), 'state_dict must be a dict; got list'),
    (dict(state_dict=None), 'state_dict must be a dict; got NoneType'),
    (dict(state_dict={1: torch.zeros(1)}), 'must be texts; got 1'),
    ({
        'a': torch.zeros(1),
        2: torch.zeros(1)
    }, 'must be texts; got 2'),
    (dict(state_dict={}, meta=[1]), 'meta must be a dict; got list'),
    (dict(state_dict={}, message_hub='x'), 'message_hub must be a dict; got'),
    (dict(state_dict={}, meta=None), None),
    # Of weights alone it may be a name.
    (dict(meta=torch.zeros(1)), None),
])
def test_form(tmp_path, content, words):
    path = str(tmp_path / 'a.pth')
    torch.save(content, path)
    if words is None:
        assert read_checkpoint(path).keys() == content.keys()
    else:
        with pytest.raises(ConfigError) as info:
            read_checkpoint(path)
        text = str(info.value)
        assert text.startswith(f'checkpoint {path}: ') and words in text


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04', b'text\n', b'\x80'])
def test_no_checkpoint(tmp_path, content):
    path = tmp_path / 'bad.pth'
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f'^checkpoint {path} is ') as info:
        read_checkpoint(str(path))
    assert '\n' not in str(info.value)
    assert 'weights_only' not in str(info.value)


@pytest.mark.parametrize('legacy', [False, True])
def test_truncated(tmp_path, legacy):
    path = tmp_path / 'half.pth'
    torch.save(
        dict(x=torch.zeros(100)),
        path,
        _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match='truncated|damaged'):
        read_checkpoint(str(path))


def test_flipped_bits(tmp_path):
    """PyTorch itself opens most of them."""
    path = tmp_path / 'flipped.pth'
    weights = torch.arange(2000.)
    torch.save(dict(x=weights), path)
    content = path.read_bytes()
    draw = random.Random(0)
    silent = 0
    for _ in range(60):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            found = torch.load(path, weights_only=True)['x']
            silent += not torch.equal(found, weights)
        except Exception:
            pass
        try:
            found = read_checkpoint(str(path))['x']
        except ConfigError as error:
            assert isinstance(error, DamagedCheckpoint)
            assert '\n' not in str(error)
        else:
            # It is in the padding.
            assert torch.equal(found, weights)
    assert silent > 40


def test_format_before_checksums(tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(
        dict(x=torch.arange(3.)), path, _use_new_zipfile_serialization=False)
    assert read_checkpoint(str(path))['x'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('value', [[1], torch.zeros(2), 'text', None])
def test_no_dict(tmp_path, value):
    torch.save(value, tmp_path / 'other.pth')
    with pytest.raises(
            ConfigError, match=f'a dict; got a {type(value).__name__}$'):
        read_checkpoint(str(tmp_path / 'other.pth'))


@pytest.mark.parametrize('form', ['zip', 'legacy', 'pickle'])
def test_payload_is_not_executed(tmp_path, form):
    path, executed = tmp_path / 'payload.pth', tmp_path / 'executed'
    content = dict(state_dict=dict(), meta=Payload(executed))
    if form == 'pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(
            content, path, _use_new_zipfile_serialization=form == 'zip')
    with pytest.raises(ConfigError, match='refused, and nothing of it was'):
        read_checkpoint(str(path))
    assert not executed.exists()


def test_what_mmengine_writes_itself(tmp_path):
    content = dict(
        state_dict=dict(a=torch.zeros(2)),
        message_hub=dict(loss=HistoryBuffer([1.], [1])))
    path, copy = tmp_path / 'epoch_1.pth', tmp_path / 'weights.pth'
    torch.save(content, path)
    with pytest.raises(ConfigError) as info:
        read_checkpoint(str(path))
    text = str(info.value)
    assert "MMEngine's own CheckpointHook" in text
    # What it advises works.
    command = text.rpartition('weights: ')[2]
    assert command.startswith('torch.save(')
    exec(command, dict(torch=torch, FILE=path, NEW_FILE=copy))
    assert read_checkpoint(str(copy)).keys() == {'a'}


@pytest.mark.parametrize('text, name', [
    ('/was/here/epoch_2.pth', 'epoch_2.pth'),
    ('epoch_2.pth\n', 'epoch_2.pth'),
    ('', None),
    (None, None),
])
def test_last_checkpoint(tmp_path, text, name):
    if text is not None:
        (tmp_path / 'last_checkpoint').write_text(text)
    assert last_checkpoint(str(tmp_path)) == name


@pytest.mark.parametrize('last, numbers', [
    ('epoch_9.pth', [9, 2, 1, 10]),
    ('epoch_4.pth', [2, 1, 10, 9]),
    (None, [10, 9, 2, 1]),
    ('mine.pth', [None, 10, 9, 2, 1]),
    ('lost.pth', [10, 9, 2, 1]),
])
def test_resumable_checkpoints(tmp_path, last, numbers):
    for name in ('epoch_1.pth', 'epoch_2.pth', 'epoch_9.pth', 'epoch_10.pth',
                 'best_vit_top1_epoch_3.pth', 'epoch_7.pth.part', 'mine.pth'):
        (tmp_path / name).touch()
    found = resumable_checkpoints(str(tmp_path), last, 'epoch_{}.pth')
    assert [Path(path).name for path in found] == [
        'mine.pth' if number is None else f'epoch_{number}.pth'
        for number in numbers
    ]
    assert resumable_checkpoints(str(tmp_path / 'no'), last, '{}.pth') == []


ONE, TWO = torch.zeros(1), torch.zeros(2)
STATE = {'head.fc.bias': ONE, 'head.fc.weight': TWO, 'branches.a.b.c': ONE}


def test_fits():
    assert state_dict_mismatches(STATE, dict(reversed(STATE.items()))) == []


@pytest.mark.parametrize('change, faults', [
    ({'head.fc.bias': None, 'head.fc.weight': None},
     ['lacks head (2 keys such as head.fc.bias)']),
    ({'branches.a.b.c': None, 'branches.d.b.c': ONE, 'neck.x': ONE},
     ['lacks branches.a (1 keys such as branches.a.b.c)',
      'adds branches.d (1 keys such as branches.d.b.c), neck (1 keys such as '
      'neck.x)']),
    ({'head.fc.weight': ONE},
     ['has head.fc.weight of shape (1,) instead of (2,)']),
    ({'head.fc.weight': [0.]},
     ['has head.fc.weight of shape list instead of (2,)']),
])
def test_faults(change, faults):
    given = {
        key: value
        for key, value in {**STATE, **change}.items() if value is not None
    }
    assert state_dict_mismatches(STATE, given) == faults
