import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mcod_plugin.alone.reopen import check_logits
from mcod_plugin.errors import ConfigError


@pytest.mark.parametrize('format, logits, allowed', [
    ('timm', [0.1, -0.2], 1e-5),
    ('timm', [3., -40.], 4e-4),
    ('onnx', [0.1, -0.2], 1e-4),
])
def test_allowed_difference_grows_with_the_logits(format, logits, allowed):
    wanted = np.array([logits])
    found = wanted + [[0.99 * allowed, 0.]]
    assert check_logits('vgg', format, found,
                        wanted) == pytest.approx(0.99 * allowed)
    with pytest.raises(ConfigError, match=f'allowed are {allowed:.3g}'):
        check_logits('vgg', format, wanted + [[1.01 * allowed, 0.]], wanted)


def test_check_logits():
    wanted = np.array([[1., 2.], [0.5, -1.]])
    found = wanted + np.array([[0., 1e-5], [0., 0.]])
    assert check_logits('vgg', 'timm', found, wanted) == pytest.approx(1e-5)
    with pytest.raises(
            ConfigError,
            match='vgg as timm was withdrawn: .* by '
            '0.0001, allowed are 2e-05'):
        check_logits('vgg', 'timm', wanted - 1e-4, wanted)


@pytest.mark.parametrize('where, text', [(0, 'differ'), (1, 'not finite')])
def test_not_a_number_is_no_match(where, text):
    pair = [np.zeros((2, 3)), np.zeros((2, 3))]
    pair[where][1, 1] = np.nan
    with pytest.raises(ConfigError, match=text):
        check_logits('vgg', 'onnx', *pair)


def test_other_shape_is_no_match():
    with pytest.raises(ConfigError, match=r'\(2, 3\) instead of \(2, 4\)'):
        check_logits('vgg', 'onnx', np.zeros((2, 3)), np.zeros((2, 4)))


PARENT = """\
import sys
from mcod_plugin.alone.reopen import _open
folder = sys.argv[1]
job = dict(format='onnx', folder=folder, images=folder + '/images',
           logits=folder + '/logits')
print(_open([job], 1, True, folder), flush=True)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='has no /proc')
@pytest.mark.parametrize('kill', [True, False])
def test_process_ends_with_its_parent(tmp_path, kill):
    """It waits for images that never come, or finds that they are none."""
    images = tmp_path / 'images'
    os.mkfifo(images)
    with subprocess.Popen([sys.executable, '-c', PARENT,
                           str(tmp_path)],
                          stdout=subprocess.PIPE,
                          text=True) as parent:
        # Returns when somebody reads it, which is the other process.
        with open(images, 'wb') as file:
            children = Path(
                f'/proc/{parent.pid}/task/{parent.pid}/children').read_text()
            assert len(children.split()) == 1
            child = Path('/proc', children.strip())
            if kill:
                parent.send_signal(signal.SIGKILL)
                parent.wait()
                end = time.monotonic() + 30
                while child.exists():
                    assert time.monotonic() < end
                    time.sleep(.05)
            else:
                file.close()
                assert parent.stdout.read().endswith(' (exit code 0)\n')
    assert (tmp_path / 'logits.error').exists() is not kill
