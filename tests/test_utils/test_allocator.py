import subprocess
import sys

import pytest

# It is a setting of the process, so the test has one of its own.
SCRIPT = """
import numpy as np
from mcod_plugin.utils.allocator import keep_freed_memory, return_freed_memory


def resident():
    with open('/proc/self/status') as file:
        table = dict(line.split(':', 1) for line in file)
    return int(table['VmRSS'].split()[0]) / 1024


def growth():
    return resident() - start


start = resident()
for change in (None, keep_freed_memory):
    if change is not None:
        change()
    block = np.ones(64 * 1024**2, np.uint8)
    print(growth())
    del block
    print(growth())
return_freed_memory()
print(growth())
"""


@pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='only Linux tells')
def test_freed_memory_is_kept():
    out = subprocess.run([sys.executable, '-c', SCRIPT],
                         check=True,
                         capture_output=True,
                         text=True).stdout
    used, returned, used_again, kept, at_last = map(float, out.split())
    # By default, a block of 64 MiB goes back to the system.
    assert used > 60 and returned < 4
    assert used_again > 60 and kept > 60
    assert at_last < 4
