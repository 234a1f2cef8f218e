import os
import stat

import pytest

from mcod_plugin.utils.files import new_file, write_text


def test_write_text(tmp_path):
    path = tmp_path / 'it.json'
    for text in ('first äöü\n', 'second'):
        write_text(str(path), text)
        assert path.read_bytes() == text.encode('utf-8')
    assert list(tmp_path.iterdir()) == [path]


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
