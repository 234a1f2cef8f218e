from contextlib import contextmanager
from typing import Collection, Dict, Iterator, List, Mapping, Sequence

import numpy as np
import torch
import torch.nn as nn
from mmengine.dist import all_gather
from torch import Tensor

from mcod_plugin.utils.mesh import branch_group, branch_rank

__all__ = ['BranchPeers', 'RemoteBranch']


class RemoteBranch(nn.Module):
    """Stands where a cohort has a branch that lives in another process. It
    has no parameters.

    Args:
        facts (tuple): What is told of it: its network, and the numbers of
            parameters and of FLOPs, None if they are not known.
    """

    def __init__(self, facts: tuple) -> None:
        super().__init__()
        self.facts = facts


class BranchPeers:
    """The processes that see the same images, each by other branches.

    Args:
        shares (Sequence[Sequence[str]]): Names of the branches of each
            process.
        names (Sequence[str]): Names of all branches, in their order.

    Attributes:
        own (list[str]): Names of those that live here.
        away (list[str]): Names of those that live in other processes.
    """

    def __init__(self, shares: Sequence[Sequence[str]],
                 names: Sequence[str]) -> None:
        self._shares = shares
        self._names = list(names)
        self.own: List[str] = [
            name for name in names if name in shares[branch_rank()]
        ]
        self.away = [name for name in names if name not in self.own]
        self._seed = None
        self._states: Dict[str, Dict[str, Tensor]] = {}

    def share(
        self, values: Mapping[str, Tensor], trained: Collection[str] = ()
    ) -> Dict[str, Tensor]:
        """Exchange the tensors, of one shape, that each process has of its own
        branches. Returned are those of all, in their order; those that live
        here are the given ones.

        Values of the branches that are ``trained`` require a gradient, as they
        would if they lived here. It ends there: the process of the branch
        computes the same one.
        """
        sent = torch.stack([values[name].detach() for name in self.own])
        missing = max(map(len, self._shares)) - len(sent)
        if missing:
            # All processes send as much.
            sent = torch.cat([sent, sent.new_zeros(missing, *sent.shape[1:])])
        found = dict(values)
        for names, received in zip(self._shares,
                                   all_gather(sent, branch_group())):
            for name, value in zip(names, received):
                if name not in values:
                    found[name] = value.requires_grad_(
                        name in trained and torch.is_grad_enabled())
        return {name: found[name] for name in self._names}

    @contextmanager
    def randomness(self, name: str, device: torch.device) -> Iterator[None]:
        """Have a branch draw random numbers of its own where it computes.

        All processes make the same random changes to images, which those of
        dropout in one of them must not move. They follow from the seed of the
        global generator, and begin anew with it.
        """
        seed = torch.initial_seed()
        if seed != self._seed:
            self._seed = seed
            self._states.clear()
        on_gpu = device.type == 'cuda'
        with torch.random.fork_rng([device] if on_gpu else []):
            state = self._states.get(name)
            if state is None:
                number = np.random.SeedSequence(
                    (seed, self._names.index(name))).generate_state(1)
                torch.manual_seed(int(number[0]))
            else:
                torch.set_rng_state(state['cpu'])
                if on_gpu:
                    torch.cuda.set_rng_state(state['cuda'], device)
            yield
            self._states[name] = dict(cpu=torch.get_rng_state())
            if on_gpu:
                self._states[name]['cuda'] = torch.cuda.get_rng_state(device)
