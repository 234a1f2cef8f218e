"""What the pages tell of a GPU is what was measured."""
import json
import re
from pathlib import Path

import pytest

from .prose import items, numbers

ROOT = Path(__file__).parents[2]
GRAPHS = 'runner/compile.mode=reduce-overhead train_dataloader.drop_last=True'
ROWS = {
    'as it is': 'runner/on',
    '`compile=True`': 'runner/compile=True train_dataloader.drop_last=True',
    '`compile.mode=reduce-overhead`, CUDA graphs': GRAPHS,
}


@pytest.fixture(scope='module')
def measured():
    path = ROOT / 'docs' / 'performance' / 'compile_gpu.json'
    return json.loads(path.read_text())


def test_performance_page(measured):
    text = (ROOT / 'docs' / 'performance.md').read_text()
    section = text.partition('## On a GPU')[2].partition('\n## ')[0]
    section = section.replace('**', '')
    table = re.findall(r'^\| (.*) \|$', section, re.M)[1:]
    rows = [row.split(' | ') for row in table]
    assert [row[0] for row in rows] == list(ROWS)
    for label, *cells in rows:
        name = ROWS[label]
        score = measured['contenders'][name]
        ratio = measured['ratios'].get(f'{name} : runner/on')
        assert cells == [
            f'{score["milliseconds"]:.2f}',
            f'{score["images_per_second"]:,.0f}',
            '1' if ratio is None else
            '{median:.2f} ({min:.2f} to {max:.2f})'.format(**ratio),
        ]
    assert measured['commit'].startswith(
        re.search(r'commit\s(\w+)', section)[1])


def test_gpu_page(measured):
    text = (ROOT / 'benchmarks' / 'gpu' / 'README.md').read_text()
    eager, fused, graphs = (
        f'{measured["contenders"][name]["milliseconds"]:.2f}'
        for name in ROWS.values())
    assert [graphs, eager, fused] in map(numbers, items(text))
