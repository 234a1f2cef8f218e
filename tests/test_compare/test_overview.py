import json
from pathlib import Path

from mcod_plugin.compare.overview import overview


def test_overview(make_run):
    runs = [make_run('solo', 0), make_run('dml', 0), make_run('solo', 10)]
    done, begun, _ = runs
    Path(done.result).parent.mkdir()
    Path(done.result).write_text(
        json.dumps(dict(config_hash=done.config_hash)))
    Path(begun.work_dir).mkdir(parents=True)
    Path(begun.work_dir, 'epoch_1.pth').touch()
    header, *rows = [[cell.strip() for cell in line.strip('┃│').split(sep)]
                     for line in overview(runs).split('\n') for sep in '┃│'
                     if line.startswith(sep)]
    assert header == ['method', 'seed 0', 'seed 10']
    assert rows == [['solo', 'done', 'to do'], ['dml', 'begun', '']]
