from mcod_plugin.utils.leftovers import missing_folders, remove_empty


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
