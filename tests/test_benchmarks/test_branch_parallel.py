import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch.distributed as dist

from branch_parallel import held_and_sent, run

from ..tiny import TINY

DOCS = Path(__file__).parents[2] / 'docs'


def can_be_alone():
    """Whether the machine allows networks of one's own."""
    return shutil.which('unshare') and shutil.which('ip') and subprocess.run(
        ['unshare', '--map-root-user', '--net', 'true'],
        capture_output=True).returncode == 0


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available() and can_be_alone()),
    reason='needs gloo and network namespaces')
def test_two_processes(tmp_path):
    (tmp_path / 'tiny.py').write_text(TINY)
    found = run(tmp_path / 'tiny.py', 2, 2, steps=3, batch_size=8)
    # The logits of 8 images and 10 classes, from each to the other.
    logits = 2 * 8 * 10 * 4
    assert logits <= found['on'] < logits + 10000
    assert found['on'] - found['off'] >= logits
    # ResNet and VGG in float32.
    assert [part['weights'] for part in found['held']] == [4 * 5214, 4 * 36782]
    for part in found['held']:
        # AdamW keeps two values for each, and counts the steps.
        assert 2 * part['weights'] < part['states'] < 2.1 * part['weights']


@pytest.mark.parametrize(
    'size, branch, held, sent, bound',
    [
        # All of 6 parameters, whose gradients a ring of four sends.
        (4, 1, 16 * 6, 2 * 3 / 4 * 4 * 6, 4.),
        # Each has 3 of them, and sends the logits of up to two branches.
        (2, 2, 16 * 3, 1 * 2 * 100, 2.),
        # Two rows, between which gradients are exchanged besides.
        (4, 2, 16 * 3, 2 * 1 / 2 * 4 * 3 + 1 * 2 * 100, 4.),
        (3, 3, 16 * 3, 2 * 1 * 100, 2.),
    ])
def test_on_paper(size, branch, held, sent, bound):
    found = held_and_sent(
        dict(a=3, b=2, c=1), dict(a=3., b=2., c=1.), size, branch, 100, 16)
    assert found == pytest.approx((held, sent, bound))


def test_what_the_page_tells_of_it():
    measured = json.loads(
        (DOCS / 'performance' / 'branch_parallel_cpu.json').read_text())
    page = (DOCS / 'distributed.md').read_text()
    for name, case in measured.items():
        line, = [
            line for line in page.splitlines()
            if line.startswith(f'| {name}') and line.count('|') == 6
        ]
        cells = [cell.strip() for cell in line.strip('|').split('|')][1:]
        held = case['held']
        assert cells == [
            f'{case["off"] / 1e6:.3f}', f'{case["on"] / 1e6:.3f}', ', '.join(
                f'{(part["weights"] + part["states"]) / 1e6:.1f}'
                for part in held),
            ', '.join(f'{part["resident"] / 1e6:.0f}' for part in held)
        ]
