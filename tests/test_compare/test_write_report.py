import pytest
from mmengine.config import Config

from mcod_plugin.compare.plan import Run
from mcod_plugin.compare.study import Method, Study
from mcod_plugin.compare.write_report import write_report
from mcod_plugin.errors import ConfigError
from .runs import make_run, write_run

METHODS = ('solo', 'mcod')


@pytest.fixture
def make_study(tmp_path):
    """Makes a study with a result of each of its runs, and those runs."""
    folder = tmp_path / 'results'
    folder.mkdir()
    for method in METHODS:
        write_run(folder, make_run(method))

    def make(report=None, config_hash='0'):
        methods = [Method(name, '', {}) for name in METHODS]
        runs = [
            Run(f'{name}_seed0', name, 0, Config(), config_hash, 'work',
                str(folder / f'{name}_seed0.json'), []) for name in METHODS
        ]
        return Study('small', '', False, {}, methods, [0], 'solo', str(folder),
                     report and str(report)), runs

    return make


def test_beside_the_results(make_study, tmp_path):
    path = tmp_path / 'results' / 'report.md'
    told = write_report(*make_study())
    text = path.read_text()
    assert told.endswith(f'The report is in {path}')
    for name in ('curves', 'gain', 'diversity', 'schedule'):
        assert f'![{name.capitalize()} of the study small]({name}.png)' in text
        assert (path.parent / f'{name}.png').is_file()
    for words in (told, text):
        assert 'Top-1 accuracy' in words
        assert 'another config' not in words
    assert not list(tmp_path.rglob('*.part'))


def test_results_by_another_config(make_study, tmp_path):
    study, runs = make_study()
    other = make_study(config_hash='1')[1]
    told = write_report(study, [runs[0], other[1]])
    text = (tmp_path / 'results' / 'report.md').read_text()
    for words in (told, text):
        assert ('Made by another config than the one that the study now has: '
                'mcod_seed0.') in words


def test_file_without_a_place_for_it(make_study, tmp_path):
    path = tmp_path / 'notes.md'
    path.write_text('# Notes\n')
    with pytest.raises(ConfigError, match='<!-- study: small -->'):
        write_report(*make_study(path))
    assert path.read_text() == '# Notes\n'
    assert not list(tmp_path.rglob('*.png'))
