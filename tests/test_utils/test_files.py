import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.files import (check_out, claim, missing_folders,
                                     new_file, new_folder, remove_empty, sweep,
                                     try_lock, write_text)

WRITER = """\
import sys, time
from mcod_plugin.utils.files import new_file
with new_file(sys.argv[1]) as part, open(part, 'w') as file:
    print('half', file=file, flush=True)
    print(part, flush=True)
    time.sleep(600)
"""


def test_write_text(tmp_path):
    path = tmp_path / 'it.json'
    for text in ('first äöü\n', 'second'):
        write_text(str(path), text)
        assert path.read_bytes() == text.encode('utf-8')
    assert list(tmp_path.iterdir()) == [path]


def test_without_locks(tmp_path):
    """As on Windows, where nobody knows whether a writer still lives."""
    code = """\
import sys
sys.modules['fcntl'] = None
from mcod_plugin.utils.files import hold, new_file, sweep, write_text
folder = sys.argv[1]
write_text(folder + '/it.json', 'text')
with hold(folder), new_file(folder + '/other.json') as part:
    open(part, 'w').write('other')
    sweep(folder)
"""
    left = tmp_path / f'it.json.{"0" * 32}.part'
    left.touch()
    subprocess.run([sys.executable, '-c', code, str(tmp_path)], check=True)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {'it.json': 'text', 'other.json': 'other', left.name: ''}


@pytest.mark.parametrize('number, mine', [(errno.ENOSYS, True),
                                          (errno.ENOTSUP, True),
                                          (errno.ENOLCK, True),
                                          (errno.EWOULDBLOCK, False),
                                          (errno.EACCES, False)])
def test_try_lock(tmp_path, monkeypatch, number, mine):

    def refuse(handle, kind):
        raise OSError(number, 'refused')

    with open(tmp_path / 'lock', 'w') as one, open(tmp_path / 'lock') as two:
        assert try_lock(one.fileno()) and not try_lock(two.fileno())
        one.close()
        assert try_lock(two.fileno())
        monkeypatch.setattr(fcntl, 'flock', refuse)
        assert try_lock(two.fileno()) is mine


CLAIM = """\
import os, sys, time
from mcod_plugin.utils.files import claim
with claim(sys.argv[1], 'me') as other:
    if other is None and os.fork() == 0:
        # A worker, which outlives it.
        time.sleep(600)
    print(os.getpid(), other, flush=True)
    if other is None:
        time.sleep(600)
"""


def test_claim(tmp_path):
    path = str(tmp_path / 'lock')
    ask = [sys.executable, '-c', CLAIM, path]
    with subprocess.Popen(
            ask, stdout=subprocess.PIPE, text=True,
            start_new_session=True) as first:
        try:
            assert first.stdout.readline().split() == [str(first.pid), 'None']
            with claim(path, 'you') as other:
                assert other == 'me'
            done = subprocess.run(ask, stdout=subprocess.PIPE, text=True)
            assert done.stdout.split()[1] == 'me' and os.path.exists(path)
            # Whatever becomes of what it has forked.
            first.kill()
            first.wait()
            with claim(path, 'you') as other:
                assert other is None
                assert Path(path).read_text() == 'you'
        finally:
            os.killpg(first.pid, signal.SIGKILL)
    assert os.listdir(tmp_path) == []


def test_claim_that_was_removed(tmp_path):
    """By somebody who did not know better, and is another's now."""
    path = tmp_path / 'lock'
    with claim(str(path), 'me'):
        path.unlink()
        path.write_text('you')
    assert path.read_text() == 'you'


@pytest.mark.parametrize('out', ['', ' '])
def test_out_without_a_name(tmp_path, monkeypatch, out):
    """It would stand for the folder that the user is in."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match='^--out must be the name'):
        check_out('--out', out)
    with pytest.raises(ConfigError, match='^--out must be the name'):
        with new_folder(out):
            pass


def test_link_to_an_empty_folder(tmp_path):
    place, link = tmp_path / 'far' / 'place', tmp_path / 'link'
    place.mkdir(parents=True)
    link.symlink_to(place)
    with new_folder(str(link)) as folder:
        Path(folder, 'file').write_text('text')
    assert link.is_symlink() and (place / 'file').read_text() == 'text'
    assert [path.name for path in place.parent.iterdir()] == ['place']


def test_folder_that_somebody_is_in(tmp_path, monkeypatch):
    """It stays, and so do its permissions."""
    tmp_path.chmod(0o2770)
    monkeypatch.chdir(tmp_path)
    with new_folder('.') as folder:
        Path(folder, 'sub').mkdir()
        Path(folder, 'sub', 'file').write_text('text')
        assert not os.listdir()
    assert os.listdir() == ['sub']
    assert Path('sub', 'file').read_text() == 'text'
    assert stat.S_IMODE(os.stat('.').st_mode) == 0o2770


def test_two_fill_one_folder(tmp_path):
    """None of which knew of the other one when it began."""
    out = tmp_path / 'out'
    with new_folder(str(out), parts=['vgg/onnx']) as first:
        Path(first, 'vgg', 'onnx').mkdir(parents=True)
        with new_folder(str(out), parts=['vgg/timm']) as second:
            Path(second, 'vgg', 'timm').mkdir(parents=True)
    assert sorted(os.listdir(out / 'vgg')) == ['onnx', 'timm']
    for parts, told in ((['resnet'], 'there is a resnet already'),
                        (None, 'is not empty')):
        other = str(tmp_path / f'other {told}')
        with pytest.raises(ConfigError, match=told):
            with new_folder(other, parts=parts) as late:
                Path(late, 'resnet').mkdir()
                with new_folder(other, parts=['resnet']) as fast:
                    Path(fast, 'resnet').mkdir()
                    Path(fast, 'resnet', 'mine').touch()
        assert os.listdir(Path(other, 'resnet')) == ['mine']
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.skipif(not os.path.ismount('/proc'), reason='has no /proc')
def test_mount_point():
    """It cannot be replaced, which is told before there is work to lose."""
    with pytest.raises(ConfigError, match='^--out /proc is a mount point'):
        with new_folder('/proc'):
            pass


def test_old_file_stays_if_the_new_one_fails(tmp_path):
    path = tmp_path / 'it.json'
    write_text(str(path), 'old')
    with pytest.raises(UnicodeEncodeError):
        write_text(str(path), 'new \ud800')
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_write_one_file(tmp_path):
    path = tmp_path / 'it.json'
    with new_file(str(path)) as part:
        with open(part, 'w') as file:
            file.write('begun first, ')
            write_text(str(path), 'ended first')
            assert path.read_text() == 'ended first'
            file.write('ended last')
    assert path.read_text() == 'begun first, ended last'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('mask, mode', [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_are_those_of_any_file(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(str(tmp_path / 'it.json'), 'text')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'it.json').stat().st_mode) == mode


@pytest.fixture
def writer(tmp_path):
    """A process that is writing a file."""
    process = subprocess.Popen(
        [sys.executable, '-c', WRITER,
         str(tmp_path / 'it.json')],
        stdout=subprocess.PIPE,
        text=True)
    process.part = process.stdout.readline().strip()
    assert os.path.isfile(process.part)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize('clean', [
    lambda folder: sweep(str(folder)),
    lambda folder: write_text(str(folder / 'it.json'), 'whole')
])
def test_only_what_dead_writers_left_is_removed(tmp_path, writer, clean):
    others = [tmp_path / 'movie.part', tmp_path / 'it.json.old.part']
    for path in others:
        path.touch()
    clean(tmp_path)
    assert os.path.isfile(writer.part)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert os.path.isfile(writer.part)
    clean(tmp_path)
    assert not os.path.exists(writer.part)
    assert {*tmp_path.iterdir()} - {tmp_path / 'it.json'} == {*others}


def test_what_earlier_versions_left_is_removed(tmp_path):
    for name in ('epoch_3.pth.part', 'best_vit_top1_epoch_3.pth.part'):
        (tmp_path / name).touch()
    sweep(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    sweep(str(tmp_path / 'nowhere'))


def test_on_the_disk_before_it_is_in_its_place(tmp_path, monkeypatch):
    done = []

    def spy(name):
        call = getattr(os, name)

        def noted(*args):
            call(*args)
            kind = 'file' if name == 'replace' or os.path.isfile(
                f'/proc/self/fd/{args[0]}') else 'folder'
            done.append((name, kind))

        monkeypatch.setattr(os, name, noted)

    spy('fsync')
    spy('replace')
    write_text(str(tmp_path / 'it.json'), 'text')
    assert done == [('fsync', 'file'), ('replace', 'file'),
                    ('fsync', 'folder')]


def test_out_must_have_a_place(tmp_path):
    check_out('--out', str(tmp_path / 'new.json'))
    with pytest.raises(ConfigError, match='does not exist'):
        check_out('--out', str(tmp_path / 'no' / 'new.json'))
    with pytest.raises(ConfigError, match='is a folder'):
        check_out('--out', str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_out_must_be_writable(tmp_path):
    with pytest.raises(ConfigError, match='no such file can be made in'):
        check_out('--out', str(tmp_path / ('a' * 300)))
    path = tmp_path / 'old.json'
    path.write_text('old')
    check_out('--out', str(path))
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='only Linux has /proc')
def test_out_must_be_writable_by_root_as_well():
    with pytest.raises(ConfigError, match='--out /proc/x.py: .* in /proc'):
        check_out('--out', '/proc/x.py')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_out_must_not_be_read_only(tmp_path):
    path = tmp_path / 'old.json'
    path.touch(0o444)
    with pytest.raises(ConfigError, match='old.json must not be written to'):
        check_out('--out', str(path))


def test_missing_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a').mkdir()
    expected = [str(tmp_path / name) for name in ('a/b/c', 'a/b')]
    assert missing_folders('a/b/c') == expected
    assert missing_folders(str(tmp_path / 'a' / 'b' / 'c')) == expected
    assert missing_folders('a') == missing_folders('.') == []
    assert missing_folders('s3://bucket/folder') == []


def test_remove_empty(tmp_path):
    folder = tmp_path / 'a' / 'b'
    made = missing_folders(str(folder))
    remove_empty(made)  # not made at all
    folder.mkdir(parents=True)
    remove_empty(made)
    assert list(tmp_path.iterdir()) == []


def test_remove_empty_keeps_what_is_used(tmp_path):
    folder = tmp_path / 'a' / 'b'
    made = missing_folders(str(folder))
    folder.mkdir(parents=True)
    (tmp_path / 'a' / 'file').touch()
    remove_empty(made)
    assert not folder.exists() and (tmp_path / 'a' / 'file').exists()


FOLDER_WRITER = """\
import os, sys, time
from mcod_plugin.utils.files import new_folder
with new_folder(sys.argv[1]) as folder:
    open(os.path.join(folder, 'half'), 'w').close()
    print(folder, flush=True)
    time.sleep(600)
"""


def test_takes_its_place_or_is_gone(tmp_path):
    with new_folder(str(tmp_path / 'new' / 'out')) as folder:
        (Path(folder) / 'file').write_text('text')
        assert not (tmp_path / 'new' / 'out').exists()
    assert (tmp_path / 'new' / 'out' / 'file').read_text() == 'text'
    with pytest.raises(KeyError):
        with new_folder(str(tmp_path / 'other' / 'out')):
            raise KeyError
    assert list(tmp_path.iterdir()) == [tmp_path / 'new']
    with pytest.raises(ConfigError, match='is not empty'):
        with new_folder(str(tmp_path / 'new' / 'out')):
            pass


def test_only_folders_that_dead_writers_left_are_removed(tmp_path):
    out = str(tmp_path / 'out')
    other = tmp_path / '.out.own.part'
    other.mkdir()
    writer = subprocess.Popen([sys.executable, '-c', FOLDER_WRITER, out],
                              stdout=subprocess.PIPE,
                              text=True)
    try:
        part = Path(writer.stdout.readline().strip())
        with pytest.raises(KeyError):
            with new_folder(out):
                raise KeyError
        assert (part / 'half').exists()
    finally:
        writer.kill()
        writer.communicate()
    assert (part / 'half').exists()
    with new_folder(out):
        pass
    assert sorted(tmp_path.iterdir()) == [other, tmp_path / 'out']
