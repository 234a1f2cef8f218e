"""Publishing a trained cohort."""
import os.path as osp
import re
import sys
from typing import Optional

from mcod_plugin.alone.images import validation_images
from mcod_plugin.config.parts import is_part
from mcod_plugin.engine.hooks.divergence_watch import diverged_branches
from mcod_plugin.errors import ConfigError
from mcod_plugin.evaluation import BranchMetrics
from mcod_plugin.utils.new_folder import new_folder
from mcod_plugin.utils.packages import require_packages
from .ended_run import read_run
from .publication import Publication
from .publisher import Publisher
from .recipe import check_solo

__all__ = ['publish_cohort']

PACKAGES = ('huggingface_hub', 'matplotlib', 'safetensors', 'yaml')
# What the hub takes for the name of a repository.
NAME = re.compile(r'[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?')


def publish_cohort(work_dir: str,
                   out: str,
                   solo: Optional[str] = None,
                   checkpoint: Optional[str] = None) -> Publication:
    """Write weights, configs, figures, model cards and a metafile of a
    trained cohort.

    The folder ``out`` is the cohort's own, with the card that ranks the
    branches and the weights of the ensemble; each branch has a folder in it.
    All accuracies are those of the files that were written, on the validation
    data, which must be there. Unless all of it works out, nothing is written.

    Args:
        work_dir (str): The work directory of the run.
        out (str): The folder to write to, new or empty. Its name becomes that
            of the cohort.
        solo (str, optional): The work directory of the same networks by the
            same recipe, never distilled. Without it no gain is claimed.
        checkpoint (str, optional): The checkpoint to publish. Defaults to the
            last one.

    Returns:
        Publication: What was published.

    Raises:
        ConfigError: If it cannot be done.
    """
    require_packages('publishing', PACKAGES, 'publish')
    name = osp.basename(osp.abspath(out))
    if not NAME.fullmatch(name):
        raise ConfigError('--out: its last part becomes the name of the '
                          'cohort and must be made of letters, digits, '
                          f'hyphens, dots and underscores; got {name!r}')
    run = read_run('WORK_DIR', work_dir, checkpoint)
    for branch, when in diverged_branches(run.content).items():
        raise ConfigError(
            f'WORK_DIR {work_dir} cannot be published as a cohort: in epoch '
            f'{when["epoch"]} {branch} diverged and was left out')
    if run.held_out == 'validation':
        # The test of what is published gives the number on its card.
        for part in ('dataloader', 'evaluator', 'cfg'):
            run.cfg[f'test_{part}'] = run.cfg.get(f'val_{part}')
    if not any(is_part(m, BranchMetrics) for m in run.test_metrics):
        # The card tells the accuracy of each branch.
        run.cfg.test_evaluator = [
            dict(type='mcod_plugin.BranchMetrics'), *run.test_metrics
        ]
    baseline = None
    if solo is not None:
        baseline = read_run('--solo', solo)
        check_solo(run, baseline)
    with new_folder(out) as folder:
        try:
            images = validation_images(run.cfg, sys.maxsize)
        except ConfigError as error:
            raise ConfigError('the accuracy cannot be evaluated without the '
                              f'{run.held_out} data: {error}') from error
        return Publisher(name, out, folder, run, baseline, images).publish()
