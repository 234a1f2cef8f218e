"""The benchmark as a whole; all cases together are timed by the test of
its tool."""
import json
from functools import partial

import pytest

from mcod_plugin.engine.optim_wrapper import has_bfloat16, use_amp
from mcod_plugin.errors import ConfigError
from speed import run_benchmark, tables
from speed.benchmark import measure, rotations

QUICK = dict(rounds=2, seconds=.001, threads=1)


def test_growth(tiny_config):
    cfg = tiny_config()
    use_amp(cfg)
    report = run_benchmark(
        cfg, **QUICK, growth=True, growth_branch='vit', only=['growth/[12]'])
    assert report['growth_branch'] == 'vit'
    # Emulated, it would be slower.
    assert report['precision'] == ('bfloat16' if has_bfloat16() else 'float32')
    assert list(report['contenders']) == ['growth/1', 'growth/2']
    assert list(report['contenders']['growth/2']['memory_formats']) == [
        'vit_0', 'vit_1'
    ]
    (ratio, ) = (row['values'] for name, row in report['ratios'].items()
                 if name.startswith('time'))
    one, two = ([turn['seconds'] / turn['steps'] for turn in row['turns']]
                for row in report['contenders'].values())
    assert ratio == pytest.approx([b / (2 * a) for a, b in zip(one, two)])
    text = tables(report)
    for name in (*report['contenders'], *report['ratios']):
        assert name in text
    json.dumps(report)


@pytest.mark.parametrize('options, words', [
    (dict(only=['step/*', 'no/*']), 'no/. matches no case.*step/on'),
    (dict(growth=True, growth_branch='vi'), 'resnet, vit.*got .vi.'),
])
def test_unknown_names(tiny_config, options, words):
    with pytest.raises(ConfigError, match=words):
        run_benchmark(tiny_config(), **QUICK, **options)


def test_model_without_branches(tiny_config):
    cfg = tiny_config()
    cfg.model = cfg.model.branches.resnet
    with pytest.raises(ConfigError, match='model.branches.*got None'):
        run_benchmark(cfg, **QUICK)


def test_mistake_that_a_case_finds(tiny_config):
    cfg = tiny_config(**{'model.branches.resnet.backbone.depth': 9})
    with pytest.raises(
            ConfigError,
            match='^step/on: model.branches.resnet.backbone: .*depth.*9'):
        run_benchmark(cfg, **QUICK, only=['step/on'])


def test_death_of_a_worker(tiny_config, sample_cases):
    cfg = tiny_config(in_memory=False)
    cfg.custom_imports = dict(imports=['sample_cases'])
    cfg.train_dataloader.collate_fn.type = 'default_collate'
    cfg.train_dataloader.dataset.type = 'sample_cases.DeadlyDigits'
    with pytest.raises(
            ConfigError, match=r'^step/off: its process died \(SIGKILL\)$'):
        run_benchmark(cfg, **QUICK, only=['step/off'])


def test_rounds_rotate():
    assert list(rotations('abc', 4)) == [['a', 'b', 'c'], ['b', 'c', 'a'],
                                         ['c', 'a', 'b'], ['a', 'b', 'c']]


def test_samples_are_interleaved(sample_cases, tmp_path):
    notes = tmp_path / 'notes'
    cases = {
        name: partial(sample_cases.note_steps, notes, name)
        for name in 'abc'
    }
    found = measure(cases, rounds=3, seconds=.02, threads=1)
    assert list(found) == ['a', 'b', 'c']
    lengths = {}
    for name, case in found.items():
        assert case.images == 2 and case.facts == dict(name=name)
        (lengths[name], ) = {steps for _, steps in case.samples}
        assert len(case.samples) == 3
    # Each warms up by a step and finds the length of its samples.
    expected = [name for name in 'abc' for _ in range(1 + lengths[name])]
    for name in 'abc' 'bca' 'cab':
        expected += [name] * lengths[name]
    noted = [line.split()[0] for line in notes.read_text().splitlines()]
    assert noted == expected
