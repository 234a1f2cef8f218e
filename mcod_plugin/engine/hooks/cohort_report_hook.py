from typing import Dict, Optional, Sequence, Tuple

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.registry import HOOKS
from mcod_plugin.runs.metrics import best_top1, columns, top1
from mcod_plugin.runs.tables import accuracy_table, render
from .discontinuous_kd_hook import DiscontinuousKDHook

# Where the accuracies of all validations are kept in the message hub, so that
# they are saved and resumed with the run.
ACCURACIES = 'cohort_top1'


@HOOKS.register_module()
class CohortReportHook(Hook):
    """Print the cohort at the start, and its accuracy at the end.

    The start's table names each branch with its network, parameters and
    FLOPs (multiply-adds, as the toolbox counts them). The end's table gives
    top-1 accuracy of each branch and of the ensemble, in the last validation
    and in the best one.

    Examples:
        >>> default_hooks = dict(report=dict(
        ...     type='mcod_plugin.CohortReportHook'))
    """

    # After the validation's metrics are known, before checkpoints are saved.
    priority = 'LOW'

    def before_train(self, runner: Runner) -> None:
        """Print the branches, and say if they are never distilled."""
        self._unscheduled = False
        model = get_ori_model(runner.model)
        if not hasattr(model, 'branches'):
            return
        runner.logger.info('Cohort:\n%s', branch_table(model))
        if len(model.branches) < 2 or not hasattr(model, 'kd_weight'):
            return
        if model.distill is None:
            runner.logger.info('The branches are never distilled, whatever '
                               'the schedule: model.distill is None.')
            return
        self._unscheduled = not any(
            isinstance(hook, DiscontinuousKDHook) for hook in runner.hooks)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Warn after the first step if nothing has distilled them: any hook
        may write the weight."""
        if not self._unscheduled:
            return
        self._unscheduled = False
        if get_ori_model(runner.model).kd_weight == 0:
            runner.logger.warning(
                'The branches are never distilled: custom_hooks has no '
                'mcod_plugin.DiscontinuousKDHook, and no other hook has '
                'written model.kd_weight. A config that sets custom_hooks '
                'replaces those of its _base_.')

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        """Note the accuracy of the ensemble and each branch."""
        # In training, the epoch or iteration just finished counts from 1
        # here, as in the names of the checkpoints.
        unit, now = progress(runner)
        info = runner.message_hub.runtime_info
        rows = info.get(ACCURACIES)
        if rows is None:
            # A run that was begun by an older version has kept its best only.
            best = info.get('cohort_best', {}).items()
            rows = [{f'{name}/top1': value, unit: step}
                    for name, (value, step) in best]
        row = {f'{k}/top1': v for k, v in top1(metrics or {}).items()}
        runner.message_hub.update_info(ACCURACIES, [*rows, {**row, unit: now}])
        self.last = metrics or {}

    def after_train(self, runner: Runner) -> None:
        """Print last and best accuracy."""
        last = getattr(self, 'last', {})
        if top1(last):
            rows = runner.message_hub.get_info(ACCURACIES)
            unit, now = progress(runner)
            runner.logger.info(
                'Result after %d %ss:\n%s', now, unit,
                accuracy_table(last, best_top1(columns(rows, unit)), unit))

    def after_test_epoch(self,
                         runner: Runner,
                         metrics: Optional[Dict[str, float]] = None) -> None:
        """Print the test's accuracy."""
        if top1(metrics or {}):
            runner.logger.info('Result:\n%s', accuracy_table(metrics))


def progress(runner: Runner) -> Tuple[str, int]:
    """How far training is.

    Args:
        runner (Runner): The runner.

    Returns:
        tuple[str, int]: What training counts in, ``'epoch'`` or
        ``'iteration'``, and the number of those that are over.
    """
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        return 'iteration', runner.iter
    return 'epoch', runner.epoch


def branch_table(model: torch.nn.Module) -> str:
    """What the branches of a cohort are.

    Args:
        model (MultiBackboneClassifier): The cohort.

    Returns:
        str: A table of type, parameters and FLOPs.
    """
    rows = []
    totals = [0, 0]
    sizes = set()
    for name, branch in model.branches.items():
        parameters = sum(value.numel() for value in branch.parameters())
        size = model.branch_settings[name].input_size
        sizes.add('{}x{}'.format(*size))
        flops = count_flops(branch, (1, model.in_channels, *size))
        rows.append((name, network_name(branch), f'{parameters:,}',
                     '-' if flops is None else f'{flops:,}'))
        totals[0] += parameters
        totals[1] += flops or 0
    rows.append(('together', '', f'{totals[0]:,}', f'{totals[1]:,}'))
    return render(('branch', 'network', 'parameters',
                   f'FLOPs at {", ".join(sorted(sizes))}'), rows)


def network_name(branch: torch.nn.Module) -> str:
    """What network a classifier is.

    Args:
        branch (nn.Module): A classifier.

    Returns:
        str: The class of its backbone; of timm's networks the name by which
        timm builds them.
    """
    network = getattr(branch, 'backbone', branch)
    inner = getattr(network, 'timm_model', getattr(network, 'model', None))
    name = (getattr(inner, 'pretrained_cfg', None) or {}).get('architecture')
    return f'timm {name}' if name else type(network).__name__


def count_flops(branch: torch.nn.Module,
                shape: Sequence[int]) -> Optional[int]:
    """Multiply-adds of one image.

    Args:
        branch (nn.Module): A classifier.
        shape (Sequence[int]): Shape ``(1, C, H, W)`` of its input.

    Returns:
        int | None: None if the network cannot be traced.
    """
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
