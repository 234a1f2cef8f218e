"""What two runs have in common."""
import re
from typing import Any, Dict, Tuple

from mcod_plugin.config.parts import is_part, walk
from mcod_plugin.engine.hooks import DiscontinuousKDHook, RunRecordHook
from mcod_plugin.errors import ConfigError
from mcod_plugin.runs.config_changes import TAKEN
from .trained_run import TrainedRun

__all__ = ['check_solo', 'recipe_differences']

# What makes no other recipe: where things go, what is printed, how the same
# step is computed, and the method itself, which is the teacher, the loss and
# the schedule. Batches count as a whole, by the record.
METHOD_HOOKS = (DiscontinuousKDHook, RunRecordHook)
IGNORED = re.compile(
    r'(work_dir|experiment_name|log_level|log_processor|launcher|parallel'
    r'|compile|cuda_graph|resume|visualizer|env_cfg|default_hooks'
    r'|custom_imports|runner_type|method|model\.teacher|model\.distill'
    r'|model\.memory_format|model\.(branches\.[^.]+\.)?recompute'
    r'|randomness\.seed|test_dataloader|test_evaluator|test_cfg'
    r'|\w+_dataloader\.(batch_size|num_workers|persistent_workers|pin_memory'
    r'|prefetch_factor))(\.|$)')


def check_solo(run: TrainedRun, solo: TrainedRun) -> None:
    """Raise unless a run is the solo baseline of another: the same recipe,
    never distilled, trained as long."""
    text = f'--solo {solo.work_dir}'
    found = recipe_differences(run.cfg, solo.cfg)
    if found:
        key, (ours, theirs) = next(iter(found.items()))
        more = f', and {len(found) - 1} more differ' if len(found) > 1 else ''
        raise ConfigError(f'{text} is of another recipe: {key} is {ours!r} '
                          f'in WORK_DIR and {theirs!r} there{more}')
    ours, theirs = (part.record.get('batch_size') for part in (run, solo))
    if None in (ours, theirs):
        # Of each process.
        ours, theirs = (
            part.cfg.train_dataloader.get('batch_size')
            for part in (run, solo))
    if ours != theirs:
        raise ConfigError(f'{text} is of another recipe: its batches are of '
                          f'{theirs} images, those of WORK_DIR of {ours}')
    if solo.distils:
        raise ConfigError(f'{text}: its branches were distilled; train it '
                          'with --method solo')
    if solo.done != run.done:
        raise ConfigError(
            f'{text}: its checkpoint is of {solo.unit} {solo.done}, that of '
            f'WORK_DIR of {run.unit} {run.done}; compare the same')


def recipe_differences(ours: Any, theirs: Any) -> Dict[str, Tuple[Any, Any]]:
    """The settings of two recipes that differ, apart from the method: both
    values by dotted key, None where one lacks it."""
    ours, theirs = _settings(ours), _settings(theirs)
    return {
        key: (ours.get(key), theirs.get(key))
        for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)
    }


def _settings(cfg: Any) -> Dict[str, Any]:
    """All settings that belong to a recipe, by dotted key."""
    cfg = cfg.to_dict()
    if cfg.get('resume'):
        # It is no start of its own, but a checkpoint of the run.
        cfg['load_from'] = None
    cfg['custom_hooks'] = [
        hook for hook in cfg.get('custom_hooks') or []
        if not is_part(hook, METHOD_HOOKS)
    ]
    return {
        key: value
        for key, value in walk(cfg)
        if not (isinstance(value, (dict, list, tuple)) or IGNORED.match(key)
                or TAKEN.match(key))
    }
