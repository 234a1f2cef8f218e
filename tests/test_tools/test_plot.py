"""Pictures of some runs."""
import json
import re
import shutil

from PIL import Image


def test_two_runs(run_tool, trained, tmp_path):
    shutil.copytree(trained.work_dir, tmp_path / 'other')
    done = run_tool(
        'plot', trained.work_dir, 'other', '--out', 'both.png', cwd=tmp_path)
    assert done.code == 0 and done.err == ''
    assert done.out.endswith('The curves are in both.png.\n')
    last = json.loads((trained.work_dir / 'record.json').read_text())['last']
    numbers = r' │ +'.join(f'{last[f"{name}/top1"]:.2f}'
                           for name in ('resnet', 'vgg', 'ensemble'))
    for name in (trained.work_dir.name, 'other'):
        assert re.search(rf'│ {name} +│ +epoch 2 │ +{numbers} │', done.out)
    # Two branches, the ensemble, and the schedule.
    both = Image.open(tmp_path / 'both.png')
    assert both.width > both.height > 300


def test_what_cannot_be_drawn(run_tool, trained, tmp_path):
    (tmp_path / 'bad').mkdir()
    bad = tmp_path / 'bad' / 'record.json'
    for text, words in ((None, 'has no record.json of a run'),
                        ('[', 'has no record.json of a run'),
                        ('{}', 'lacks the curves'),
                        (json.dumps(dict(unit='iteration', curves={})),
                         'epochs and in iterations')):
        if text is not None:
            bad.write_text(text)
        done = run_tool('plot', trained.work_dir, 'bad', cwd=tmp_path)
        assert done.code == 2 and words in done.err
        assert done.err.count('\n') == 1
    bad.write_text(json.dumps(dict(unit='epoch', curves=dict(epoch=[]))))
    done = run_tool('plot', 'bad', cwd=tmp_path)
    assert done.code == 2 and 'top-1 accuracy' in done.err
    done = run_tool('plot', 'bad', '--out', 'x.pdf', cwd=tmp_path)
    assert done.code == 2 and '--out must end in .png' in done.err
    assert [path.name for path in tmp_path.iterdir()] == ['bad']
