import os
import re
import subprocess
import sys

from ..tiny import ROOT


def test_a_few_kills(tmp_path, tmp_path_factory):
    """One of each kind; the whole campaign is in docs/resuming.md."""
    done = subprocess.run([
        sys.executable,
        str(ROOT / 'benchmarks' / 'kills.py'), '--kills', '4'
    ],
                          cwd=tmp_path,
                          env={
                              **os.environ, 'OMP_NUM_THREADS': '1',
                              'TMPDIR': str(tmp_path),
                              # PyTorch makes it as it is imported.
                              'TORCHINDUCTOR_CACHE_DIR': str(
                                  tmp_path_factory.mktemp('inductor'))
                          },
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r'\| (.+) \| (\d+) \| \d+ \| (\d+) \|', done.stdout)
    assert len(rows) == 5 and rows[-1][0] == 'together'
    assert all(kills == equal for _, kills, equal in rows)
    assert int(rows[-1][1]) >= 4
    assert list(tmp_path.iterdir()) == []
