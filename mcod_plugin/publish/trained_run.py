"""A training run, as its work directory holds it."""
import math
import os.path as osp
from dataclasses import dataclass
from glob import escape, glob
from typing import Any, Dict, List, Optional, Tuple

from mcod_plugin.config.parts import is_part, metric_configs, type_name
from mcod_plugin.config.pretrained import is_pretrained
from mcod_plugin.config.read import read_config
from mcod_plugin.engine.hooks.run_record_hook import STATE
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import EnsembleTeacher
from mcod_plugin.models.losses import DiscontinuousKDLoss
from mcod_plugin.runs.courses import Courses
from mcod_plugin.runs.record import (RECORD, find_record, kd_weights,
                                     part_ends)
from mcod_plugin.utils.checkpoint import last_checkpoint, read_checkpoint

__all__ = ['TrainedRun', 'read_run']

# Teacher and loss of the plugin's own method, which are its defaults.
OWN = dict(teacher=EnsembleTeacher, distill=DiscontinuousKDLoss)
# What MCOD leaves open: how the ensemble of all branches is made.
MCOD_FUSIONS = ('mean', 'prob_mean', 'confidence')


@dataclass
class TrainedRun:
    """A training run that can be published.

    Attributes:
        work_dir (str): Its work directory.
        cfg (Config): Its config.
        checkpoint (str): Path of the checkpoint.
        content (dict): What the checkpoint holds.
        record (dict): What :class:`RunRecordHook` has written.
    """

    work_dir: str
    cfg: Any
    checkpoint: str
    content: Dict[str, Any]
    record: Dict[str, Any]

    @property
    def meta(self) -> Dict[str, Any]:
        """What the checkpoint tells of itself."""
        return self.content.get('meta') or {}

    @property
    def by_epoch(self) -> bool:
        """Whether training goes by epochs."""
        return 'max_epochs' in self.cfg.train_cfg

    @property
    def unit(self) -> str:
        """What the run counts in."""
        return 'epoch' if self.by_epoch else 'iteration'

    @property
    def done(self) -> Optional[int]:
        """How many of them the checkpoint has seen."""
        return self.meta.get('epoch' if self.by_epoch else 'iter')

    @property
    def planned(self) -> int:
        """How many of them the run was to have."""
        length = 'max_epochs' if self.by_epoch else 'max_iters'
        return self.cfg.train_cfg[length]

    @property
    def seed(self) -> Any:
        """The seed; None if it is not known."""
        return self.meta.get('seed')

    @property
    def held_out(self) -> str:
        """The data that tell its accuracy: ``'validation'``, or ``'test'`` if
        it was not validated."""
        validated = self.cfg.get('val_dataloader') is not None
        return 'validation' if validated else 'test'

    @property
    def test_metrics(self) -> List[Dict[str, Any]]:
        """Configs of the metrics by which it is tested."""
        return metric_configs(self.cfg.get('test_evaluator'))

    @property
    def branches(self) -> Dict[str, Any]:
        """Configs of the branches by name."""
        return self.cfg.model.branches

    @property
    def frozen(self) -> List[str]:
        """The branches that only taught."""
        return [
            name for name, branch in self.branches.items()
            if branch.get('frozen')
        ]

    @property
    def loaded(self) -> Optional[str]:
        """The checkpoint that the whole cohort started from, if any, however
        often the run was resumed."""
        hub = self.content.get('message_hub') or {}
        found = hub.get('runtime_info', {}).get('load_from')
        if found is None and not self.cfg.get('resume'):
            # That of a resumed run is the checkpoint that it went on from.
            found = self.cfg.get('load_from')
        return found

    @property
    def pretrained(self) -> List[str]:
        """The branches that did not start from random weights."""
        cohort = dict(init_cfg=self.cfg.model.get('init_cfg'))
        if self.loaded or is_pretrained(cohort):
            return list(self.branches)
        return [
            name for name, branch in self.branches.items()
            if is_pretrained(branch)
        ]

    @property
    def distillation(self) -> Dict[str, Any]:
        """How the branches were distilled up to the checkpoint: ``until``,
        ``kd_weight`` and, if it is known, ``kd_on``, as in a record."""
        record = self.content.get(STATE) or self.record
        weights, until = kd_weights(record), part_ends(record)
        # A checkpoint may be older than the record.
        count = sum(step <= (self.done or math.inf) for step in until)
        own = {
            key: values
            for key, values in self.record.items()
            if key.endswith('.kd_weight')
        }
        return dict(
            own,
            until=until[:count],
            kd_weight=weights[:count],
            kd_on=(record.get('kd_on') or [])[:count])

    @property
    def weights(self) -> Tuple[List[int], List[float]]:
        """After how many epochs, or iterations, and at what weight the
        branches were distilled up to there."""
        found = self.distillation
        return found['until'], found['kd_weight']

    @property
    def method(self) -> str:
        """How the branches were trained, in words."""
        if len(self.branches) == 1:
            return ('alone, distilled from its own moving average'
                    if self.distils else 'alone, never distilled')
        if not self.distils:
            return 'side by side, never distilled (the solo baseline)'
        if self.is_mcod:
            return 'together by collaborative online distillation (MCOD-style)'
        if self.frozen_teachers:
            return ('side by side, distilled from the frozen '
                    f'{" and ".join(self.frozen_teachers)}')
        return ('together by online distillation with '
                f'{type_name(self._part("teacher"))}')

    @property
    def is_mcod(self) -> bool:
        """Whether the branches, all of which learn, were taught by the
        ensemble of all, in phases or at a weight that changes."""
        if not self.distils or self.frozen:
            return False
        if any(f'{name}.kd_weight' in self.record for name in self.branches):
            return False
        teacher, (_, weights) = self._part('teacher'), self.weights
        return (is_part(self._part('distill'), OWN['distill'])
                and is_part(teacher, OWN['teacher'])
                and teacher.get('fusion', 'mean') in MCOD_FUSIONS and all(
                    (teacher.get('weights') or {}).values())
                and not teacher.get('members')
                and not teacher.get('leave_one_out')
                and teacher.get('ema') is None and len({*weights}) > 1)

    @property
    def frozen_teachers(self) -> List[str]:
        """The branches that taught all others without learning themselves, as
        in traditional distillation; empty if others taught as well."""
        members = self._part('teacher').get('members') or []
        members = [members] if isinstance(members, str) else list(members)
        frozen = {*members} <= {*self.frozen}
        return members if self.distils and frozen else []

    def _part(self, name: str) -> Dict[str, Any]:
        """The config of the teacher or of the distillation loss."""
        return self.cfg.model.get(name) or dict(type=OWN[name])

    @property
    def distils(self) -> bool:
        """Whether the branches were ever distilled; a lone one has nothing to
        learn from but its own average."""
        taught = len(self.branches) > 1 or self._part('teacher').get(
            'ema') is not None
        return taught and any(weight > 0 for weight in self.weights[1])


def read_run(setting: str,
             work_dir: str,
             checkpoint: Optional[str] = None) -> TrainedRun:
    """Read what a run has left in a folder, by its last checkpoint or another
    one. Raise, with the ``setting`` that names the folder, if it is no such
    folder, or of no cohort, or neither it nor the checkpoint holds the record
    of the run."""
    if not osp.isdir(work_dir):
        raise ConfigError(f'{setting} {work_dir}: there is no such folder')
    # A runner without a config, such as those of MMPretrain's tools that draw
    # the learning rate, leaves an empty one.
    configs = [
        path for path in sorted(glob(osp.join(escape(work_dir), '*.py')))
        if not _is_blank(path)
    ]
    if len(configs) != 1:
        found = ', '.join(map(osp.basename, configs)) or 'none'
        raise ConfigError(
            f'{setting} {work_dir} must hold one config, that of its run; '
            f'found {found}')
    cfg = read_config(configs[0])
    if not isinstance((cfg.get('model') or {}).get('branches'), dict):
        raise ConfigError(f'{setting} {work_dir}: the config holds no cohort: '
                          'model.branches is missing')
    if not isinstance(cfg.get('train_cfg'), dict):
        raise ConfigError(f'{setting} {work_dir}: the config lacks train_cfg')
    checkpoint = checkpoint or _last_checkpoint(setting, work_dir)
    content = read_checkpoint(checkpoint)
    record = find_record(work_dir)
    if not record:
        if STATE not in content:
            raise ConfigError(
                f'{setting} {work_dir} does not tell how its branches were '
                f'distilled: it lacks {RECORD}, which a run of '
                'mcod_plugin.CohortRunner leaves')
        courses = Courses(content[STATE]['unit'])
        courses.load(content[STATE])
        record = courses.to_dict()
    machine = content.get('meta', {}).get('machine') or {}
    return TrainedRun(work_dir, cfg, checkpoint, content, {
        **machine,
        **record
    })


def _is_blank(path: str) -> bool:
    with open(path, 'rb') as file:
        return not file.read().strip()


def _last_checkpoint(setting: str, work_dir: str) -> str:
    name = last_checkpoint(work_dir)
    path = osp.join(work_dir, name or '')
    if name is None or not osp.isfile(path):
        raise ConfigError(f'{setting} {work_dir} holds no checkpoint; train '
                          'the cohort first, or name one with --checkpoint')
    return path
