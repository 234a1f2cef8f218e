import json
from pathlib import Path

from mcod_plugin.compare.state import overview
from ..cells import cells


def test_overview(make_run):
    runs = [make_run('solo', 0), make_run('dml', 0), make_run('solo', 10)]
    done, begun, _ = runs
    Path(done.result).parent.mkdir()
    Path(done.result).write_text(
        json.dumps(dict(config_hash=done.config_hash)))
    Path(begun.work_dir).mkdir(parents=True)
    Path(begun.work_dir, 'epoch_1.pth').touch()
    header, *rows = cells(overview(runs))
    assert header == ['method', 'seed 0', 'seed 10']
    assert rows == [['solo', 'done', 'to do'], ['dml', 'begun', '']]
