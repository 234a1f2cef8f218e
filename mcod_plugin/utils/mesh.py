"""The processes of a run, by what they have in common.

Processes form a mesh (data, branch): those of a row, which differ in the
second place, see the same images, each by other branches. Those of a column
have the same branches, and see other images. Without a mesh, the default,
all processes are one column.
"""
from typing import Any, Optional

import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size

__all__ = [
    'branch_group', 'branch_rank', 'branch_size', 'data_group', 'data_rank',
    'data_size', 'host_group', 'join_mesh'
]

_mesh: Optional[Any] = None
_host_group: Optional[Any] = None


def join_mesh(branch: int) -> None:
    """Arrange the processes, all of which call this, so that ``branch`` of
    them see the same images. It divides the number of all; with 1 there is no
    mesh."""
    global _mesh, _host_group
    if branch == 1:
        _mesh = _host_group = None
        return
    # PyTorch 2.1 has none.
    from torch.distributed.device_mesh import init_device_mesh
    shape = (get_world_size() // branch, branch)
    if _mesh is None or tuple(_mesh.mesh.shape) != shape:
        _mesh = init_device_mesh(
            get_device(), shape, mesh_dim_names=('data', 'branch'))
        rows = [
            dist.new_group(row, backend='gloo') for row in _mesh.mesh.tolist()
        ]
        _host_group = rows[data_rank()]


def data_group() -> Optional[Any]:
    """Those who see other images by the same branches.

    Returns:
        ProcessGroup | None: None for all processes, or if there is one.
    """
    return None if _mesh is None else _mesh.get_group(0)


def data_rank() -> int:
    """Which share of the images this process sees, from 0."""
    return get_rank(data_group())


def data_size() -> int:
    """How many shares of the images there are."""
    return get_world_size(data_group())


def branch_group() -> Optional[Any]:
    """Those who see the same images by other branches; None if there is nobody
    else."""
    return None if _mesh is None else _mesh.get_group(1)


def host_group() -> Optional[Any]:
    """The same as :func:`branch_group`, for what is on the host, such as
    objects: they take no memory of a GPU."""
    return _host_group


def branch_rank() -> int:
    """Which share of the branches this process has, from 0."""
    return 0 if _mesh is None else get_rank(branch_group())


def branch_size() -> int:
    """How many processes share the branches."""
    return 1 if _mesh is None else get_world_size(branch_group())
