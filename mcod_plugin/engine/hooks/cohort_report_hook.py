import math
from typing import Dict, Optional, Sequence, Tuple

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.registry import HOOKS
from mcod_plugin.runs.record import dose_text
from mcod_plugin.utils.table import render
from .discontinuous_kd_hook import DiscontinuousKDHook

# Where the best results are kept in the message hub, so that they are saved
# and resumed with the run.
BEST = 'cohort_best'


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

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        """Note the best accuracy so far of the ensemble and each branch."""
        hub = runner.message_hub
        best = dict(hub.get_info(BEST)) if BEST in hub.runtime_info else {}
        # In training, the epoch or iteration just finished counts from 1
        # here, as in the names of the checkpoints.
        _, now = progress(runner)
        for name, accuracy in top1(metrics or {}).items():
            # NaN of a branch that was left out is no best.
            if accuracy > best.get(name, (-math.inf, ))[0]:
                best[name] = (accuracy, now)
        hub.update_info(BEST, best)
        self.last = metrics or {}

    def after_train(self, runner: Runner) -> None:
        """Print last and best accuracy, and how much was distilled."""
        last = getattr(self, 'last', {})
        if top1(last):
            best = runner.message_hub.get_info(BEST)
            unit, now = progress(runner)
            runner.logger.info('Result after %d %ss:\n%s', now, unit,
                               result_table(last, best, unit))
        for hook in runner.hooks:
            if hasattr(hook, 'courses') and self._can_distil():
                text = dose_text(hook.courses())
                runner.logger.info('The branches were %s.', text)

    def after_test_epoch(self,
                         runner: Runner,
                         metrics: Optional[Dict[str, float]] = None) -> None:
        """Print the test's accuracy."""
        if top1(metrics or {}):
            runner.logger.info('Result:\n%s', result_table(metrics))


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


def top1(metrics: Dict[str, float]) -> Dict[str, float]:
    """Top-1 accuracy by branch, the ensemble last.

    Args:
        metrics (dict[str, float]): Metrics such as ``<branch>/top1``.

    Returns:
        dict[str, float]: Accuracy in percent.
    """
    found = {
        key[:-len('/top1')]: value
        for key, value in metrics.items() if key.endswith('/top1')
    }
    if 'ensemble' in found:
        found['ensemble'] = found.pop('ensemble')
    return found


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


def result_table(last: Dict[str, float],
                 best: Optional[Dict[str, tuple]] = None,
                 unit: str = 'epoch') -> str:
    """Accuracy of each branch and of the ensemble.

    Args:
        last (dict[str, float]): Metrics of the last evaluation; NaN of a
            branch that has diverged.
        best (dict[str, tuple[float, int]], optional): Best top-1 accuracy and
            its epoch (from 1) by name.
        unit (str): What is counted instead of epochs. Defaults to
            ``'epoch'``.

    Returns:
        str: A table in percent.
    """
    rows = []
    accuracies = top1(last)
    for name, accuracy in accuracies.items():
        row = [name, _percent(accuracy)]
        if f'{name}/top5' in last:
            row.append(_percent(last[f'{name}/top5']))
        if best:
            row.append('-' if name not in best else
                       f'{best[name][0]:.2f} ({unit} {best[name][1]})')
        rows.append(row)
    header = ['', 'top-1 %']
    if any(key.endswith('/top5') for key in last):
        header.append('top-5 %')
    if best:
        header.append('best top-1 %')
    table = render(header, rows)
    # A lone branch, whose ensemble it is, has none to differ from.
    counting = [value for value in accuracies.values() if value == value]
    if 'diversity/disagreement' in last and len(counting) > 2:
        share = 100 * last['diversity/disagreement']
        table += f'\nThe branches disagree on {share:.1f} % of the images.'
    return table


def _percent(value: float) -> str:
    return 'diverged' if math.isnan(value) else f'{value:.2f}'
