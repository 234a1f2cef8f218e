"""A stand-in for a CUDA graph on a CPU."""
from contextlib import contextmanager, nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What has the host wait for a value, or for how many there are.
WAITS = ('_local_scalar_dense', 'is_nonzero', 'equal', 'nonzero',
         'masked_select', '_unique', '_unique2', 'unique_dim',
         'unique_consecutive', 'bincount')
# The same, of functions of a tensor that are no operations.
READS = ('tolist', 'numpy', '__array__', 'cpu')
# What gives its argument, or a view of it.
SAME = ('detach', 'alias', '_reshape_alias')


class Waits(RuntimeError):
    """What a GPU would refuse while a graph is recorded."""


class Tape(TorchDispatchMode):
    """Records operations with the places in memory that they read and write,
    and does them again.

    Attributes:
        operations (list): Those recorded so far.
    """

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in WAITS:
            raise Waits(f'{name} has the host wait')
        if name == 'lift_fresh':
            raise Waits('a number of the host is built in')
        if name in ('index', 'index_put_', 'index_put') and any(
                leaf.dtype == torch.bool
                for leaf in tree_leaves(args[1]) if torch.is_tensor(leaf)):
            raise Waits('how many a mask chooses has the host wait')
        found = func(*args, **kwargs)
        if not (func.is_view or name in SAME):
            self.operations.append((func, args, kwargs, found))
        return found

    def replay(self):
        """Do all again, with what is in memory now."""
        with torch.no_grad():
            for func, args, kwargs, found in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(found), tree_leaves(again)):
                    if (torch.is_tensor(old) and new is not old
                            and new.data_ptr() != old.data_ptr()):
                        old.copy_(new)


class Reads(TorchFunctionMode):
    """Finds what reads a tensor without an operation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, '__name__', '') in READS:
            raise Waits(f'{func.__name__} has the host wait')
        if func is torch.nn.functional.one_hot:
            # On a CPU alone it looks at the values.
            labels, number = args
            return (labels[..., None] == torch.arange(number)).long()
        return func(*args, **kwargs)


class TapeRecorder:
    """Records by a :class:`Tape`, where a :class:`CudaRecorder` does on a
    GPU.

    A GPU computes nothing while it records: what was computed is undone.

    Args:
        model (nn.Module): The model.
        optim_wrapper (OptimWrapper): What updates it.

    Attributes:
        tapes (list[Tape]): All that was recorded.
    """

    # On a CPU fused optimizers take the exact number, as from the host.
    rate_type = torch.float64
    streams = None

    def __init__(self, model, optim_wrapper):
        self._model = model
        self._optimizer = optim_wrapper.optimizer
        self.tapes = []

    def forget(self):
        """Nothing: a tape has memory of its own."""

    def warming_up(self):
        return nullcontext()

    def record(self, function):
        tape = Tape()
        with self._undone(), tape, Reads():
            found = function()
        self.tapes.append(tape)
        return tape.replay, found

    @contextmanager
    def _undone(self):
        state = list(self._state())
        before = [value.detach().clone() for value in state]
        generator = torch.get_rng_state()
        try:
            yield
        finally:
            torch.set_rng_state(generator)
            with torch.no_grad():
                for value, old in zip(state, before):
                    value.copy_(old)
        if len(list(self._state())) > len(state):
            raise RuntimeError('recording has made state of the optimizer, '
                               'which a replay would not make')

    def _state(self):
        yield from self._model.parameters()
        yield from self._model.buffers()
        for entry in self._optimizer.state.values():
            yield from filter(torch.is_tensor, entry.values())
