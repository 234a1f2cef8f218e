"""Calls a function of a file in several processes that form a group:
``python ranks.py FILE FUNCTION FOLDER SIZE``.

The folder holds the arguments, and gets what each process returns.
"""
import os
import runpy
import signal
import sys
import traceback
from contextlib import suppress

import torch
import torch.distributed as dist
from mmengine.registry import init_default_scope


def call(function, folder, rank, size):
    """What each of the processes does."""
    os.environ['LOCAL_RANK'] = str(rank)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/rendezvous',
        rank=rank,
        world_size=size)
    args = torch.load(f'{folder}/args.pth', weights_only=False)
    torch.save(function(*args), f'{folder}/{rank}.pth')


if __name__ == '__main__':
    file, name, folder, size = sys.argv[1:]
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    function = runpy.run_path(file)[name]
    children = []
    # Forks of a process that has used no thread yet: the libraries are
    # imported once.
    for rank in range(int(size)):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                call(function, folder, rank, int(size))
                code = 0
            except BaseException:
                print(
                    f'rank {rank}:\n{traceback.format_exc()}', file=sys.stderr)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                # Threads of gloo that want Python as it shuts down abort.
                os._exit(code)
        children.append(child)
    for _ in children:
        if os.wait()[1]:
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            sys.exit(f'one of {size} processes failed')
