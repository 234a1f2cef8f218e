"""What the launchers of several processes tell each of them."""
import os
import subprocess

from mcod_plugin.errors import ConfigError

__all__ = ['LAUNCHERS', 'adopt_ranks', 'is_restarted']

# By launcher the variables that hold what PyTorch calls RANK, LOCAL_RANK and
# WORLD_SIZE.
LAUNCHERS = dict(
    none=(),
    pytorch=('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    slurm=('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK',
         'OMPI_COMM_WORLD_SIZE'))
STARTERS = dict(pytorch='torchrun', slurm='srun', mpi='mpirun')
# That of PyTorch.
PORT = '29500'


def adopt_ranks(launcher: str) -> None:
    """Tell PyTorch by its own variables what a launcher, ``'none'``,
    ``'pytorch'``, ``'slurm'`` or ``'mpi'``, tells by others. Raise if it has
    not started the process, or the address of the first node is not known.

    These are ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and
    ``MASTER_PORT``. Those of an address that are set stay as they are.
    """
    own = LAUNCHERS['pytorch']
    for name, source in zip(own, LAUNCHERS[launcher]):
        if source not in os.environ:
            raise ConfigError(
                f'--launcher {launcher}: the environment has no {source}; '
                f'start the tool by {STARTERS[launcher]}')
        os.environ[name] = os.environ[source]
    if launcher == 'none' or launcher == 'pytorch':
        return
    os.environ.setdefault('MASTER_PORT', PORT)
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = (
            _slurm_address() if launcher == 'slurm' else _mpi_address())


def _slurm_address() -> str:
    """The first node of the job."""
    nodes = os.environ.get('SLURM_NODELIST', '')
    try:
        names = subprocess.run(
            ['scontrol', 'show', 'hostnames', nodes],
            capture_output=True,
            check=True,
            text=True).stdout.split()
        return names[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ConfigError(
            f'--launcher slurm: "scontrol show hostnames {nodes}" does not '
            'tell the first node; set MASTER_ADDR to its address') from error


def _mpi_address() -> str:
    size = os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE')
    if size == os.environ['WORLD_SIZE']:
        return '127.0.0.1'
    raise ConfigError(
        '--launcher mpi: the processes are on several nodes; set MASTER_ADDR '
        'to the address of the first (mpirun -x MASTER_ADDR=HOST)')


def is_restarted() -> bool:
    """Whether a launcher has started the process again, after one of a run was
    lost, as ``torchrun --max-restarts`` and SLURM's requeueing tell."""
    return any(
        int(os.environ.get(name) or 0) > 0
        for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'))
