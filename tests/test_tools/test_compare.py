"""The comparison's tool, with real but tiny runs."""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from .conftest import ENVIRON, ROOT

STUDY = """\
config = 'tiny.py'
settings = {'val_evaluator.calibration_bins': 10,
            'train_dataloader.dataset.indices': 96}
methods = dict(solo='solo', dml='dml')
seeds = [0, 1]
"""
# Times and dates apart, what a record of equal runs has in common.
TIMES = ('train_seconds', 'seconds', 'date', 'peak_memory_bytes')


def make_study(folder, **changes):
    text = STUDY
    for key, value in changes.items():
        text += f'{key} = {value!r}\n'
    (folder / 'study.py').write_text(text)


def load(folder):
    return {
        path.stem: json.loads(path.read_text())
        for path in sorted((folder / 'study').glob('*.json'))
    }


@pytest.fixture(scope='module')
def compared(run_tool, tmp_path_factory):
    """A finished study: its folder and what the tool printed."""
    from .conftest import TINY
    folder = tmp_path_factory.mktemp('compared')
    (folder / 'tiny.py').write_text(TINY)
    make_study(folder)
    done = run_tool('compare', 'study.py', '--jobs', '2', cwd=folder)
    assert done.code == 0, done.err
    return SimpleNamespace(folder=folder, out=done.out, err=done.err)


def test_no_next_commands_of_each_run(compared):
    logs = [*compared.folder.rglob('train.log')]
    assert len(logs) == 4
    for log in logs:
        assert 'Result after 2 epochs' in log.read_text()
        assert 'Next:' not in log.read_text()


def test_results(compared):
    results = load(compared.folder)
    assert sorted(results) == [
        'dml_seed0', 'dml_seed1', 'solo_seed0', 'solo_seed1'
    ]
    for name, record in results.items():
        assert f'{record["method"]}_seed{record["seed"]}' == name
        assert record['study'] == 'study'
        assert record['branches'] == ['resnet', 'vgg']
        assert record['epochs'] == 2 and record['iterations'] == 6
        assert record['curves']['epoch'] == [1, 2]
        for key in ('resnet/top1', 'vgg/top1', 'ensemble/ece',
                    'diversity/disagreement'):
            assert record['last'][key] == record['curves'][key][-1]
        weight = 1. if record['method'] == 'dml' else 0.
        assert record['kd_weight'] == [weight] * 2
        assert record['seconds'] > record['train_seconds'] > 0
    assert results['solo_seed0']['last'] != results['solo_seed1']['last']
    hashes = {record['config_hash'] for record in results.values()}
    assert len(hashes) == 4


def test_progress_and_tables(compared):
    assert re.search(r'solo +│ +to do │ +to do', compared.out)
    for name in load(compared.folder):
        assert f'{name} begins' in compared.out
        assert f'{name} is done' in compared.out
    assert '4 of 4 runs' in compared.out
    tables = compared.out.rpartition('4 of 4 runs')[2]
    assert re.search(r'│ solo .*│ \d+\.\d\d ± ', tables)
    assert re.search(r'│ dml .*[+-]\d+\.\d\d', tables)


def test_report(compared):
    folder = compared.folder / 'study'
    text = (folder / 'report.md').read_text()
    assert text.startswith('<!-- study: study -->')
    figures = re.findall(r'!\[.*?\]\((.+?)\)', text)
    assert figures == [
        'curves.png', 'gain.png', 'diversity.png', 'schedule.png', 'pull.png'
    ]
    for name in figures:
        assert (folder / name).stat().st_size > 5000


def test_finished_runs_are_not_repeated(compared, run_tool):
    before = {
        path: path.stat().st_mtime_ns
        for path in (compared.folder / 'study').glob('*.json')
    }
    text = (compared.folder / 'study' / 'report.md').read_text()
    for argument in ((), ('--report', )):
        done = run_tool('compare', 'study.py', *argument, cwd=compared.folder)
        assert done.code == 0, done.err
        assert 'begins' not in done.out
        assert (compared.folder / 'study' / 'report.md').read_text() == text
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_is_an_ordinary_one(compared, run_tool, tmp_path):
    """The config in its work directory gives the same numbers by hand."""
    folder = compared.folder / 'work_dirs' / 'studies' / 'study' / 'dml_seed1'
    done = run_tool(
        'train',
        folder / 'config.py',
        '--work-dir',
        tmp_path / 'again',
        '--cfg-options',
        f'custom_hooks.1.out={tmp_path}/again.json',
        cwd=compared.folder)
    assert done.code == 0, done.err
    again = json.loads((tmp_path / 'again.json').read_text())
    assert again['last'] == load(compared.folder)['dml_seed1']['last']


def test_killed_and_begun_again(compared, run_tool, tiny):
    """It ends with the same records as if nothing had happened."""
    make_study(tiny, seeds=[1], methods=dict(dml='dml'))
    command = [sys.executable, str(ROOT / 'tools' / 'compare.py'), 'study.py']
    run_dir = tiny / 'work_dirs' / 'studies' / 'study' / 'dml_seed1'
    process = subprocess.Popen(
        command, cwd=tiny, env=ENVIRON, stdout=subprocess.DEVNULL)
    while not (run_dir / 'epoch_1.pth').exists():
        assert process.poll() is None
        time.sleep(0.02)
    # The worst: the training itself is killed first.
    found = subprocess.run(['pkill', '-KILL', '-P', str(process.pid)])
    assert found.returncode in (0, 1)
    process.kill()
    process.wait()
    done = run_tool('compare', 'study.py', cwd=tiny)
    assert done.code == 0, done.err
    records = [load(folder)['dml_seed1'] for folder in (tiny, compared.folder)]
    for record in records:
        for key in TIMES:
            record.pop(key)
    assert records[0] == records[1]


def test_dry_run_does_nothing(tiny, run_tool):
    make_study(tiny)
    before = sorted(os.listdir(tiny))
    done = run_tool(
        'compare', 'study.py', '--dry-run', '--only', 'dml_*', cwd=tiny)
    assert done.code == 0, done.err
    assert re.search(r'dml +│ +to do │ +to do', done.out)
    assert 'solo' not in done.out
    assert sorted(os.listdir(tiny)) == before


@pytest.mark.parametrize(
    'arguments, changes, words',
    [
        (('gone.py', ), {}, ('gone.py', 'no such file')),
        (('study.py', '--jobs', '0'), {}, ('--jobs', '0')),
        (('study.py', '--only', 'mcod*'), {}, ('--only mcod*', 'dml_seed0')),
        (('study.py', '--joobs', '1'), {}, ('--joobs', '--jobs')),
        (('study.py', '--cfg-options', 'modell.a=1'), {}, ('modell', 'model')),
        (('study.py', ), dict(methods=dict(a='dmll')), ('methods.a', 'dml')),
        (('study.py', ), dict(config='other.py'),
         ('other.py', 'no such file')),
        (('study.py', '--report'), {}, ('no run has finished', )),
        (('study.py', '--work-dir', 'tiny.py'), {},
         ('solo_seed0', 'tiny.py', '--work-dir')),
        # It shows once the data are read, but before any training, of
        # whichever run is the first to read them.
        (('study.py', '--jobs', '2'),
         dict(settings={'train_dataloader.dataset.indices': 0}),
         ('_seed0: train_dataloader.dataset', 'Digits is empty')),
    ])
def test_mistakes(tiny, run_tool, arguments, changes, words):
    make_study(tiny, **changes)
    done = run_tool('compare', *arguments, cwd=tiny)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    for word in words:
        assert word in done.err
    assert not list(tiny.glob('study/*.json'))


@pytest.mark.parametrize('arguments', [('--only', 'solo_*'), ('--report', )])
def test_results_by_another_config(compared, run_tool, tmp_path, arguments):
    """Where nothing is trained by it, they are told."""
    folder = tmp_path / 'copy'
    shutil.copytree(compared.folder, folder)
    make_study(
        folder,
        methods=dict(
            solo='solo',
            dml=dict(
                method='dml', settings={'optim_wrapper.optimizer.lr': 0.02})))
    done = run_tool('compare', 'study.py', *arguments, cwd=folder)
    assert done.code == 0, done.err
    for text in (done.out, (folder / 'study' / 'report.md').read_text()):
        assert 'another config' in text
        assert 'now has: dml_seed0, dml_seed1.' in text
    done = run_tool('compare', 'study.py', '--dry-run', cwd=folder)
    assert done.code == 2 and 'dml_seed0' in done.err


def test_study_of_a_machine_with_another_precision(compared, run_tool,
                                                   tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(compared.folder, folder)
    path = folder / 'study' / 'dml_seed0.json'
    record = json.loads(path.read_text())
    path.write_text(json.dumps(dict(record, precision='float16')))
    done = run_tool('compare', 'study.py', cwd=folder)
    assert done.code == 0, done.err
    (folder / 'study' / 'solo_seed1.json').unlink()
    done = run_tool('compare', 'study.py', cwd=folder)
    assert done.code == 2 and 'begins' not in done.out
    line, = done.err.splitlines()
    assert 'dml_seed0 was trained in float16, but here it would be in' in line
    assert not (folder / 'study' / 'solo_seed1.json').exists()


def test_array_of_jobs(compared, tmp_path):
    """The script of the documentation: each run is trained once, and the last
    of the jobs makes the complete report."""
    page = (ROOT / 'docs' / 'distributed.md').read_text()
    script = re.search(r'<!-- array -->\n```bash\n(.*?)```', page, re.S)[1]
    folder = tmp_path / 'array'
    folder.mkdir()
    shutil.copy(compared.folder / 'tiny.py', folder)
    make_study(folder)
    shutil.copytree(
        compared.folder / 'study',
        folder / 'study',
        ignore=shutil.ignore_patterns('*_seed1.json', 'report.md'))
    tools = str(ROOT / 'tools')
    (folder / 'job.sh').write_text(
        script.replace('STUDY', 'study.py').replace('tools/', f'{tools}/'))
    (folder / 'srun').write_text('#!/bin/sh\nexec "$@"\n')
    (folder / 'srun').chmod(0o755)
    path = f'{folder}:{os.path.dirname(sys.executable)}:{ENVIRON["PATH"]}'
    jobs = [
        subprocess.Popen(['bash', 'job.sh'],
                         cwd=folder,
                         env={
                             **ENVIRON, 'PATH': path,
                             'SLURM_ARRAY_TASK_ID': str(task)
                         },
                         stdout=subprocess.PIPE,
                         text=True) for task in (1, 2)
    ]
    out = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    for name in ('solo_seed1', 'dml_seed1'):
        assert [f'{name} begins' in text for text in out].count(True) == 1
    text = (folder / 'study' / 'report.md').read_text()
    assert 'Missing' not in text and len(load(folder)) == 4


def test_shards(compared, run_tool):
    done = [
        run_tool(
            'compare',
            'study.py',
            '--dry-run',
            '--shard',
            share,
            cwd=compared.folder) for share in ('1/3', '2/3', '3/3', '3/2')
    ]
    assert [one.code for one in done] == [0, 0, 0, 2]
    assert [one.out.count('done') for one in done[:3]] == [2, 1, 1]
    assert done[3].err.startswith(
        'error: argument --shard: must be I/N with I from 1 to N, such as '
        "2/4; got '3/2'")
    assert done[3].err.count('\n') == 1


def test_report_needs_no_data(compared, run_tool, tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(compared.folder, folder)
    make_study(folder, config='elsewhere.py')
    (folder / 'elsewhere.py').write_text(
        "_base_ = 'tiny.py'\n"
        "train_dataloader = dict(dataset=dict(source='CIFAR10'))\n")
    done = run_tool('compare', 'study.py', '--report', cwd=folder)
    assert done.code == 0, done.err
    assert 'Top-1 accuracy' in done.out


def test_markers_of_the_report(compared, run_tool):
    path = Path(compared.folder / 'notes.md')
    make_study(compared.folder, report='notes.md')
    done = run_tool('compare', 'study.py', '--report', cwd=compared.folder)
    assert done.code == 2 and 'notes.md' in done.err
    path.write_text('# Notes\n')
    done = run_tool('compare', 'study.py', '--report', cwd=compared.folder)
    assert done.code == 2 and '<!-- study: study -->' in done.err
    assert path.read_text() == '# Notes\n'
    path.write_text('# Notes\n<!-- study: study -->\noutdated\n'
                    '<!-- /study: study -->\nthe end\n')
    done = run_tool('compare', 'study.py', '--report', cwd=compared.folder)
    assert done.code == 0, done.err
    text = path.read_text()
    assert 'outdated' not in text and text.endswith('the end\n')
    assert '](study/curves.png)' in text
    make_study(compared.folder)
