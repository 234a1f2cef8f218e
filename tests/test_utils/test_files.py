import pytest

from mcod_plugin.utils.files import write_text


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
