"""What the page tells of images from files is what was measured."""
import json
import re
from pathlib import Path

import pytest

from .prose import items, numbers

DOCS = Path(__file__).parents[2] / 'docs'


@pytest.fixture(scope='module')
def section():
    text = (DOCS / 'performance.md').read_text()
    return text.partition('## Images from files')[2].partition('\n## ')[0]


@pytest.fixture(scope='module')
def measured():
    return [
        json.loads((DOCS / 'performance' / f'{name}_cpu.json').read_text())
        for name in ('loader', 'views')
    ]


def test_table(section, measured):
    table = re.findall(r'^\| (.*) \|$', section, re.M)[1:]
    rows = [row.split(' | ')[1:] for row in table]
    assert len(rows) == len(measured)
    for cells, report in zip(rows, measured):
        (ratio, ) = report['ratios'].values()
        assert cells == [
            *(f'{report["contenders"][name]["images_per_second"]:.0f}'
              for name in ('data/cohort', 'data/toolbox-0')),
            '{median:.2f} ({min:.2f} to {max:.2f})'.format(**ratio)
        ]
        assert report['commit'].startswith(
            re.search(r'commit\s(\w+)', section)[1])
        assert not report['dirty']


def test_what_one_decode_saves(section, measured):
    ratios = [
        next(iter(report['ratios'].values()))['median'] for report in measured
    ]
    one, two = (
        report['contenders']['data/cohort']['milliseconds']
        for report in measured)
    # Two networks; a batch of 32.
    assert numbers(items(section)[2]) == [
        f'{2 * ratios[0]:.1f}', '2', f'{ratios[0]:.2f}',
        f'{2 * ratios[1]:.1f}', f'{two:.0f}', '32', '2', f'{one:.0f}'
    ]
    assert two / (2 * one) == pytest.approx(.75, abs=.02)
