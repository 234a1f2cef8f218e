import os.path as osp

import pytest

from mcod_plugin.compare.study import read_study
from mcod_plugin.errors import ConfigError


def test_defaults(write_study, tmp_path):
    study = read_study(write_study())
    assert study.name == 'study'
    assert osp.abspath(study.config) == str(tmp_path / 'cohort.py')
    assert study.amp is False
    assert study.settings == {}
    assert [method.name for method in study.methods] == ['solo', 'always_on']
    assert study.methods[0].fragment.endswith('solo.py')
    assert study.seeds == [0, 1]
    assert study.baseline == 'solo' and study.contrasts == {}
    assert osp.abspath(study.results) == str(tmp_path / 'study')
    assert study.report is None


def test_everything(write_study, tmp_path):
    (tmp_path / 'own.py').write_text('custom_hooks = []\n')
    study = read_study(
        write_study(
            amp=True,
            settings={'train_cfg.max_epochs': 3},
            methods=dict(
                own='own.py',
                late=dict(method='mcod', settings={'custom_hooks.0.begin':
                                                   1})),
            baseline='late',
            contrasts=[['late', 'own']],
            results='deep/results',
            report='results.md'))
    own, late = study.methods
    assert osp.abspath(own.fragment) == str(tmp_path / 'own.py')
    assert own.settings == {}
    assert late.settings == {'custom_hooks.0.begin': 1}
    assert study.amp is True
    assert study.settings == {'train_cfg.max_epochs': 3}
    assert study.baseline == 'late' and study.contrasts == {
        '': [('late', 'own')]
    }
    assert osp.abspath(study.results) == str(tmp_path / 'deep' / 'results')
    assert osp.abspath(study.report) == str(tmp_path / 'results.md')


@pytest.mark.parametrize('lines, words', [
    (dict(seed=[0]), ('no setting seed', 'seeds')),
    (dict(zzz=1), ('no setting zzz', 'baseline')),
    (dict(config=None), ('lacks', 'config')),
    (dict(methods=None), ('lacks', 'methods')),
    (dict(seeds=None), ('lacks', 'seeds')),
    (dict(config=3), ('config', 'path', '3')),
    (dict(amp='yes'), ('amp', "'yes'")),
    (dict(seeds=3), ('seeds', 'list', '3')),
    (dict(seeds=[]), ('seeds', 'at least one')),
    (dict(seeds=[0, -1]), ('seeds[1]', '-1')),
    (dict(seeds=[0, 1.5]), ('seeds[1]', '1.5')),
    (dict(seeds=[1, 2, 1]), ('seeds must differ', )),
    (dict(methods={}), ('methods', 'at least one')),
    (dict(methods=['solo']), ('methods', 'dict')),
    (dict(methods={'a/b': 'solo'}), ('file names', "'a/b'")),
    (dict(methods={'..': 'solo'}), ('file names', "'..'")),
    (dict(methods={1: 'solo'}), ('file names', 'got 1')),
    (dict(methods=dict(a=1)), ('methods.a', 'name or path', '1')),
    (dict(methods=dict(a=dict(settings={}))), ('methods.a', 'name or path')),
    (dict(methods=dict(a=dict(method='solo', set={}))),
     ('methods.a', 'settings', "'set'")),
    (dict(methods=dict(a=dict(method='solo', settings=[1]))),
     ('methods.a.settings', 'dict')),
    (dict(methods=dict(a='sole')), ('methods.a', 'sole', 'solo')),
    (dict(methods=dict(a='gone.py')), ('methods.a', 'gone.py')),
    (dict(settings=[1]), ('settings', 'dict')),
    (dict(contrasts='solo'), ('contrasts', 'pairs', "'solo'")),
    (dict(contrasts=[('solo', 'dml', 'mcod')]), ('contrasts', 'pairs')),
    (dict(contrasts=[('solo', 'dml')]),
     ('contrasts[0]', 'always_on, solo', "'dml'")),
    (dict(contrasts=[('solo', 'solo')]), ('contrasts[0]', 'solo twice')),
    (dict(contrasts=dict(why=[('solo', 'dml')])), ('contrasts.why[0]', 'dml')),
    (dict(contrasts=dict(why='solo')), ('contrasts.why', 'pairs')),
    (dict(baseline='dml'), ('baseline', 'always_on, solo', "'dml'")),
])
def test_mistakes(write_study, lines, words):
    path = write_study(**lines)
    with pytest.raises(ConfigError) as error:
        read_study(path)
    assert '\n' not in str(error.value)
    for word in ('study', *words):
        assert word in str(error.value)


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match='there is no such file'):
        read_study(str(tmp_path / 'gone.py'))
    path = tmp_path / 'broken.py'
    path.write_text('methods = dict(\n')
    with pytest.raises(ConfigError, match='broken.py'):
        read_study(str(path))
