"""Runs the tools that it is asked for on stdin, each in a process of its own.

The processes are forked from this one, which has imported all that the tools
import: they differ from those of a shell only in that they start at once.
"""
import json
import os
import runpy
import sys
import traceback
import warnings
from pathlib import Path

warnings.filterwarnings('ignore')
import matplotlib.pyplot  # noqa: E402, F401
import mmengine.optim  # noqa: E402, F401
import mmpretrain.datasets  # noqa: E402, F401
import mmpretrain.evaluation  # noqa: E402, F401
import mmpretrain.models  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import timm  # noqa: E402, F401

import mcod_plugin.cli  # noqa: E402, F401
import mcod_plugin.datasets  # noqa: E402, F401
import mcod_plugin.engine  # noqa: E402, F401
import mcod_plugin.models  # noqa: E402, F401

runpy.run_path(str(Path(__file__).parents[1] / 'format_once.py'))

warnings.resetwarnings()
warnings.simplefilter('default')


def run(argv: list, cwd: str, env: dict, out: str, err: str) -> None:
    """Be the tool: this never returns."""
    os.chdir(cwd)
    os.environ.update(env)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    sys.argv = argv
    sys.path[0] = os.path.dirname(argv[0])
    code = 0
    try:
        runpy.run_path(argv[0], run_name='__main__')
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        run(**json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
