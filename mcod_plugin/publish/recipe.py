"""What two runs have in common."""
from typing import Any, Dict, Tuple

from mcod_plugin.config.parts import is_part, walk
from mcod_plugin.engine.hooks import DiscontinuousKDHook, RunRecordHook
from mcod_plugin.errors import ConfigError
from .trained_run import TrainedRun

__all__ = ['check_solo', 'recipe_differences']

# What makes no other recipe: where things go, what is printed, and the method
# itself, which is the teacher, the loss and the schedule.
METHOD_HOOKS = (DiscontinuousKDHook, RunRecordHook)
IGNORED = ('work_dir', 'experiment_name', 'log_level', 'log_processor',
           'launcher', 'resume', 'visualizer', 'env_cfg', 'default_hooks',
           'custom_imports', 'runner_type', 'method', 'model.teacher',
           'model.distill', 'model.memory_format', 'randomness.seed',
           'test_dataloader', 'test_evaluator', 'test_cfg')
IGNORED_IN_LOADERS = ('num_workers', 'persistent_workers', 'pin_memory',
                      'prefetch_factor')


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
    if None not in (ours, theirs) and ours != theirs:
        # By another number of processes.
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
        if not isinstance(value, (dict, list, tuple)) and not _ignored(key)
    }


def _ignored(key: str) -> bool:
    parts = key.split('.')
    return any(key == name or key.startswith(f'{name}.')
               for name in IGNORED) or (len(parts) > 1
                                        and parts[0].endswith('_dataloader')
                                        and parts[1] in IGNORED_IN_LOADERS)
