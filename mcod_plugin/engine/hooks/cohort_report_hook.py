from typing import Dict, Optional, Sequence, Tuple

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.models.utils.branch_peers import RemoteBranch
from mcod_plugin.registry import HOOKS
from mcod_plugin.runs.metrics import best_top1, top1
from mcod_plugin.runs.record import dose_text
from mcod_plugin.runs.tables import accuracy_table, metrics_table, render
from mcod_plugin.utils.units import progress
from .discontinuous_kd_hook import DiscontinuousKDHook
from .run_record_hook import RunRecordHook


@HOOKS.register_module()
class CohortReportHook(Hook):
    """Print the cohort at the start, and its accuracy at the end.

    The start's table names each branch with its network, parameters and
    FLOPs (multiply-adds, as MMEngine counts them). The end's table gives
    top-1 accuracy of each branch and of the ensemble, in the last validation
    and in the best one; where there is none, what the last one has measured
    of each.

    Examples:
        >>> default_hooks = dict(report=dict(
        ...     type='mcod_plugin.CohortReportHook'))
    """

    # After what is recorded.
    priority = 'LOW'

    def before_train(self, runner: Runner) -> None:
        """Print the branches, and say if they cannot be distilled."""
        self._unscheduled = False
        self._model = get_ori_model(runner.model)
        if not hasattr(self._model, 'branches'):
            return
        runner.logger.info('Cohort:\n%s', branch_table(self._model))
        if not self._can_distil():
            return
        if self._model.distill is None:
            runner.logger.info('The branches are never distilled, whatever '
                               'the schedule: model.distill is None.')
            return
        self._unscheduled = not any(
            isinstance(hook, DiscontinuousKDHook) for hook in runner.hooks)

    def _can_distil(self) -> bool:
        return (len(getattr(self._model, 'branches', ())) > 1
                and hasattr(self._model, 'kd_weight'))

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Warn after the first step if nothing has distilled them: any hook
        may write the weight, now or later."""
        if not self._unscheduled:
            return
        self._unscheduled = False
        if self._model.kd_weight == 0:
            runner.logger.warning(
                'The branches are not distilled so far: custom_hooks has no '
                'mcod_plugin.DiscontinuousKDHook, and no other hook has '
                'written model.kd_weight. A config that sets custom_hooks '
                'replaces those of its _base_.')

    def after_train(self, runner: Runner) -> None:
        """Print last and best accuracy, and how much was distilled."""
        record = next((hook.so_far() for hook in runner.hooks
                       if isinstance(hook, RunRecordHook)), None)
        if record is None:
            return
        if top1(record['last']):
            unit, now, _ = progress(runner)
            runner.logger.info(
                'Result after %d %ss:\n%s', now, unit,
                accuracy_table(record['last'], best_top1(record['curves']),
                               unit))
        elif record['last']:
            runner.logger.info('Result:\n%s', metrics_table(record['last']))
        if self._can_distil():
            runner.logger.info('The branches were %s.', dose_text(record))

    def after_test_epoch(self,
                         runner: Runner,
                         metrics: Optional[Dict[str, float]] = None) -> None:
        """Print the test's accuracy."""
        if metrics:
            table = accuracy_table if top1(metrics) else metrics_table
            runner.logger.info('Result:\n%s', table(metrics))


def branch_table(model: torch.nn.Module) -> str:
    """A table of type, parameters and FLOPs of a cohort's branches."""
    rows = []
    totals = [0, 0]
    sizes = set()
    for name, branch in model.branches.items():
        sizes.add('{}x{}'.format(*model.branch_settings[name].input_size))
        network, parameters, flops = branch.facts if isinstance(
            branch, RemoteBranch) else branch_facts(model, name)
        rows.append((name, network, f'{parameters:,}',
                     '-' if flops is None else f'{flops:,}'))
        totals[0] += parameters
        totals[1] += flops or 0
    rows.append(('together', '', f'{totals[0]:,}', f'{totals[1]:,}'))
    return render(('branch', 'network', 'parameters',
                   f'FLOPs at {", ".join(sorted(sizes))}'), rows)


def branch_facts(model: torch.nn.Module,
                 name: str) -> Tuple[str, int, Optional[int]]:
    """The network of a branch, and its numbers of parameters and of FLOPs; see
    :func:`network_name` and :func:`count_flops`."""
    branch = model.branches[name]
    size = model.branch_settings[name].input_size
    return (network_name(branch),
            sum(value.numel() for value in branch.parameters()),
            count_flops(branch, (1, model.in_channels, *size)))


def network_name(branch: torch.nn.Module) -> str:
    """The class of a classifier's backbone; of timm's networks the name by
    which timm builds them."""
    network = getattr(branch, 'backbone', branch)
    inner = getattr(network, 'timm_model', getattr(network, 'model', None))
    name = (getattr(inner, 'pretrained_cfg', None) or {}).get('architecture')
    return f'timm {name}' if name else type(network).__name__


def count_flops(branch: torch.nn.Module,
                shape: Sequence[int]) -> Optional[int]:
    """Multiply-adds of a classifier for one image, of the shape ``(1, C, H,
    W)``; None if the network cannot be traced."""
    training = branch.training
    branch.eval()
    try:
        device = next(branch.parameters()).device
        analyzer = FlopAnalyzer(branch, (torch.zeros(shape, device=device), ))
        analyzer.unsupported_ops_warnings(False)
        analyzer.uncalled_modules_warnings(False)
        with torch.no_grad():
            return int(analyzer.total())
    except Exception:
        # The count is a service; a network that tracing cannot follow trains
        # all the same.
        return None
    finally:
        branch.train(training)
