"""The studies of this repository, and what is told of them."""
import os.path as osp
import re
from pathlib import Path

import pytest

from mcod_plugin.compare.plan import plan
from mcod_plugin.compare.report import Report
from mcod_plugin.compare.results import (all_runs, of_other_configs,
                                         read_results)
from mcod_plugin.compare.study import read_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ('*_cifar100.py', 'balance_*.py')
    for path in (ROOT / 'benchmarks').rglob(pattern))


def results_of(study):
    return read_results(study.results,
                        [method.name for method in study.methods], study.seeds)


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize('path', STUDIES)
def test_study_can_be_run(path):
    study = read_study(path)
    runs = plan(study, 'work_dirs')
    assert len(runs) == len(study.methods) * len(study.seeds)
    # A method that is there twice would be compared with itself.
    assert len({run.config_hash for run in runs}) == len(runs)
    for run in runs:
        validation = run.cfg.val_dataloader.dataset
        training = run.cfg.train_dataloader.dataset
        if validation.split == training.split:
            # Nothing is tuned on images that were trained on.
            assert validation.per_class[0] >= training.per_class[1]
        for key in ('label', 'classes'):
            for other in (validation, run.cfg.test_dataloader.dataset):
                assert other.get(key) == training.get(key)


@pytest.mark.parametrize('path', STUDIES)
def test_report_is_that_of_the_results(path):
    study = read_study(path)
    results = results_of(study)
    if not all_runs(results):
        pytest.skip('it has no results yet')
    report = study.report or osp.join(study.results, 'report.md')
    text = Path(report).read_text()
    begin, end = f'<!-- study: {study.name} -->', (
        f'<!-- /study: {study.name} -->')
    block = text.partition(begin)[2].partition(end)[0]
    tables = Report(results, study.baseline, study.seeds,
                    study.contrasts).to_markdown()
    assert block.strip().startswith(tables.strip())
    figures = re.findall(r'!\[[^\]]*\]\(([^)]+)\)', block)
    assert figures
    for figure in figures:
        assert (Path(report).parent / figure).is_file()
    # They go on to count.
    hashes = {run.name: run.config_hash for run in plan(study, 'work_dirs')}
    assert not of_other_configs(results, hashes)
    for run in all_runs(results):
        assert run['study'] == study.name
        assert not run['dirty']
        assert re.fullmatch('[0-9a-f]{40}', run['commit'])
