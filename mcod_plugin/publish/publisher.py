"""Publishing a trained cohort."""
import os
import os.path as osp
import re
import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
import torch.nn as nn
from mmpretrain.evaluation import ConfusionMatrix
from mmpretrain.models import TIMMBackbone, TimmClassifier

from mcod_plugin.alone.branch_model import BranchModel, branch_model
from mcod_plugin.alone.cohort import (branch_logits, class_names, load_cohort,
                                      origin)
from mcod_plugin.alone.data import interpolation, source_loader
from mcod_plugin.alone.files import (file_sizes, timm_fault,
                                     write_mmpretrain, write_safetensors,
                                     write_timm)
from mcod_plugin.alone.images import Images, validation_images
from mcod_plugin.alone.reopen import reopen
from mcod_plugin.config.data import channel_order, pipeline_of
from mcod_plugin.config.parts import is_part, walk
from mcod_plugin.config.read import read_config
from mcod_plugin.datasets.in_memory_dataset import is_in_memory
from mcod_plugin.engine.hooks.cohort_report_hook import (count_flops,
                                                         network_name)
from mcod_plugin.engine.hooks.divergence_watch import diverged_branches
from mcod_plugin.errors import ConfigError
from mcod_plugin.evaluation.branch_metrics import (BranchMetrics,
                                                   pairwise_disagreement)
from mcod_plugin.runs.metrics import DISAGREEMENT, ENSEMBLE
from mcod_plugin.runs.tables import accuracy_table
from mcod_plugin.utils.checkpoint import read_checkpoint
from mcod_plugin.utils.files import new_folder, write_text
from mcod_plugin.utils.machine import (cpu_name, describe_machine,
                                       require_packages)
from .card import branch_card, cohort_card
from .data_facts import data_facts, data_part, data_split, named_data
from .figures import draw_branch, draw_cohort
from .licenses import member_license, start_weights
from .measure import accuracy, calibration_error, median_latency
from .metafile import metafile
from .publication import Member, Publication
from .push import repositories
from .recipe import check_solo
from .trained_run import TrainedRun, read_run
from .weights import publish_name, published_config, write_cohort

__all__ = ['publish_cohort']

PACKAGES = ('huggingface_hub', 'jinja2', 'matplotlib', 'safetensors', 'yaml')
# What the hub takes for the name of a repository.
NAME = re.compile(r'[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?')
TOPK = (1, 5)


def publish_cohort(work_dir: str,
                   out: str,
                   solo: Optional[str] = None,
                   checkpoint: Optional[str] = None,
                   repo: Optional[str] = None,
                   data_name: Optional[str] = None,
                   data_terms: Optional[str] = None,
                   license: Optional[str] = None,
                   dry_run: bool = False) -> Publication:
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
        repo (str, optional): The repository that it is to be uploaded to, see
            :func:`push`; its name, and those of the branches', are checked
            before there is work to lose.
        data_name (str, optional): The name of the data set. Defaults to what
            is known of it, see :func:`data_facts`.
        data_terms (str, optional): Where it comes from, and what may be done
            with it. Defaults to what is known of that.
        license (str, optional): The licence of the weights, as the hub names
            it. Defaults to none: the cards say so. A branch that only taught
            has that of the weights that it has.
        dry_run (bool): Whether all of it is done but nothing stays on disk.
            Defaults to False.

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
    if repo is not None:
        repositories(repo, run.branches)
    for branch, when in diverged_branches(run.content).items():
        raise ConfigError(
            f'WORK_DIR {work_dir} cannot be published as a cohort: in '
            f'iteration {when["iteration"]} {branch} diverged and was left '
            'out')
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
    with new_folder(out, discard=dry_run) as folder:
        try:
            images = validation_images(run.cfg, sys.maxsize)
        except ConfigError as error:
            raise ConfigError('the accuracy cannot be evaluated without the '
                              f'{run.held_out} data: {error}') from error
        if images.labels is None:
            raise ConfigError(
                f'WORK_DIR {work_dir} cannot be published: a card tells top-1 '
                f'accuracy, and {images.source} have not one label each')
        return Publisher(name, out, folder, run, baseline, images, data_name,
                         data_terms, license).publish()


@dataclass
class Publisher:
    """Publishes a run, beside its solo baseline if there is one, into a folder
    that takes the place of ``out`` in the end, by the validation images."""

    name: str
    out: str
    folder: str
    run: TrainedRun
    solo: Optional[TrainedRun]
    images: Images
    data_name: Optional[str]
    data_terms: Optional[str]
    license: Optional[str]

    def publish(self) -> Publication:
        """Write everything, and tell what was written."""
        machine = describe_machine()
        run = self.run
        self.origin = origin(run.cfg, run.checkpoint, run.content)
        self.cohort = self._write_cohort()
        if self.cohort.multi_label:
            raise ConfigError(
                f'WORK_DIR {run.work_dir} cannot be published: a card '
                'tells top-1 accuracy, and the branches give images several '
                'labels')
        self.logits = branch_logits(self.cohort, self.images.pixels)
        self.solo_metrics = self._solo_metrics()
        branches = self._branches()
        branches.sort(key=lambda member: -member.metrics['top1'])
        loader = source_loader(run.cfg)
        names = list(self.cohort.branches)
        publication = Publication(
            name=self.name,
            place=_place(self.out),
            run=run,
            solo=self.solo,
            branches=branches,
            ensemble=self._ensemble(branches),
            data=named_data(
                data_facts(loader, self.cohort.num_classes), self.data_name,
                self.data_terms),
            split=data_split(loader),
            part=data_part(loader),
            images=len(self.images.labels),
            disagreement=self._disagreement(),
            machine=machine,
            cpu=cpu_name())
        publication.ensemble.captions = draw_cohort(run, names,
                                                    self._confusion(ENSEMBLE),
                                                    self.classes, self.folder)
        for member in branches:
            folder = osp.join(self.folder, member.folder)
            member.captions = draw_branch(run, self.solo, member.name,
                                          self._confusion(member.name),
                                          self.classes, folder)
            write_text(
                osp.join(folder, 'README.md'),
                branch_card(publication, member))
        write_text(
            osp.join(self.folder, 'README.md'), cohort_card(publication))
        write_text(
            osp.join(self.folder, 'metafile.yml'), metafile(publication))
        return publication

    @property
    def classes(self) -> List[str]:
        """Names of the classes; their numbers if they have none."""
        return self.known_classes or [
            str(index) for index in range(self.cohort.num_classes)
        ]

    def _write_cohort(self) -> nn.Module:
        """Write config and weights of the cohort, and load what was
        written."""
        run = self.run
        cohort = load_cohort(run.cfg, run.checkpoint, run.content)
        classes = self.known_classes = class_names(run.content, self.images,
                                                   cohort.num_classes)
        meta = dict(
            dataset_meta=dict(classes=classes) if classes else {},
            **self.origin)
        cfg = published_config(run.cfg, cohort)
        write_cohort(cfg, cohort, meta, self.folder)
        self.weights = publish_name(self.folder, self._model_name(ENSEMBLE))
        path = osp.join(self.folder, self.weights[0])
        return load_cohort(
            read_config(osp.join(self.folder, 'config.py')), path,
            read_checkpoint(path))

    def _model_name(self, name: str) -> str:
        return f'{self.name}_{name}'

    def _accuracy(self, logits: np.ndarray) -> Dict[str, float]:
        return accuracy(logits, self.images.labels, TOPK)

    def _solo_metrics(self) -> Dict[str, Dict[str, float]]:
        solo = self.solo
        if solo is None:
            return {}
        cohort = load_cohort(solo.cfg, solo.checkpoint, solo.content)
        return {
            name: self._accuracy(logits)
            for name, logits in branch_logits(cohort,
                                              self.images.pixels).items()
        }

    def _confusion(self, name: str) -> np.ndarray:
        return ConfusionMatrix.calculate(self.logits[name],
                                         self.images.labels).numpy()

    def _disagreement(self) -> float:
        predicted = [
            self.logits[name].argmax(1) for name in self.cohort.branches
        ]
        return pairwise_disagreement(torch.from_numpy(np.stack(predicted, 1)))

    def _branches(self) -> List[Member]:
        """Write and verify the branches."""
        models, places = {}, {}
        for name in self.cohort.branches:
            model = branch_model(self.run.cfg, self.cohort, name, self.images,
                                 self.known_classes, self.origin)
            self._check_size(model)
            model.metrics = dict(
                self._accuracy(self.logits[name]), images=self.images.source)
            models[name] = model
            folder = osp.join(self.folder, name)
            os.mkdir(folder)
            write_mmpretrain(model, folder)
            places[name, 'mmpretrain'] = folder
            # The hub has one file of weights for both.
            if timm_fault(model):
                write_safetensors(model, folder)
                places[name, 'safetensors'] = folder
            else:
                write_timm(model, folder)
                places[name, 'timm'] = folder
        found = reopen(self.cohort, models, places, self.images.pixels,
                       self.logits, self.folder)
        # The numbers are those of the checkpoint.
        return [
            self._branch(model, found[name, 'mmpretrain'][0])
            for name, model in models.items()
        ]

    def _check_size(self, model: BranchModel) -> None:
        """Raise unless the branch's config gives the images of the cohort."""
        if (self.cohort.branch_settings[model.name].resized
                and is_in_memory(model.test_settings['test_dataloader'])):
            raise ConfigError(
                f'model.branches.{model.name}.input_size: a branch with a '
                'size of its own is not published with per_class, classes '
                'or label of InMemoryDataset, since what its config tests '
                'would differ from what its card tells; take all images, or '
                'indices')

    def _branch(self, model: BranchModel, logits: np.ndarray) -> Member:
        folder = osp.join(self.folder, model.name)
        starts = [
            start for start in start_weights(self.run)
            if start.branch == model.name
        ]
        member = self._member(
            model.name,
            model.classifier,
            logits,
            publish_name(folder, self._model_name(model.name)),
            folder=model.name,
            network=network_name(model.classifier),
            flops=count_flops(model.classifier, (1, *model.input_shape)),
            input_shape=model.input_shape,
            channel_order=model.data_order,
            by_path=self._by_path(model.input_shape),
            interpolation=model.interpolation,
            timm=not timm_fault(model),
            license=member_license(self.license, starts,
                                   model.name in self.run.frozen),
            needs_timm=any(
                is_part(part, (TIMMBackbone, TimmClassifier))
                for _, part in walk(model.mmpretrain[0])),
            needs_plugin=model.needs_plugin,
            own_packages=model.own_packages)
        member.test_output = [f'accuracy/top1: {member.metrics["top1"]:.4f}']
        return member

    def _ensemble(self, branches: List[Member]) -> Member:
        flops = [member.flops for member in branches]
        licenses = {member.license for member in branches}
        shape = self.images.pixels.shape[1:]
        return self._member(
            ENSEMBLE,
            self.cohort,
            self.logits[ENSEMBLE],
            self.weights,
            folder='',
            network=f'all {len(branches)} branches'
            if len(branches) > 1 else 'the only branch',
            flops=None if None in flops else sum(flops),
            input_shape=shape,
            channel_order=branches[0].channel_order,
            by_path=self._by_path(shape),
            interpolation=interpolation(
                pipeline_of(source_loader(self.run.cfg))),
            timm=False,
            license=licenses.pop() if len(licenses) == 1 else 'other',
            needs_timm=any(member.needs_timm for member in branches),
            needs_plugin=True,
            own_packages=branches[0].own_packages,
            test_output=self._test_output())

    def _member(self, name: str, model: nn.Module, logits: np.ndarray,
                weights: Tuple[str, str], **facts: Any) -> Member:
        """What was measured of a network, and the facts that are known."""
        return Member(
            name=name,
            model_name=self._model_name(name),
            weights=weights[0],
            sha256=weights[1],
            sizes=file_sizes(osp.join(self.folder, facts['folder'])),
            parameters=sum(value.numel() for value in model.parameters()),
            latency=median_latency(model, (1, *facts['input_shape'])),
            metrics=self._accuracy(logits),
            calibration_error=calibration_error(logits, self.images.labels),
            solo=self.solo_metrics.get(name, {}),
            **facts)

    def _by_path(self, shape: Tuple[int, int, int]) -> bool:
        """Whether MMPretrain's inferencer takes the path of an image: it has
        the pipeline of the config, unless another data set wraps it, and
        reads colours."""
        dataset = source_loader(self.run.cfg)['dataset']
        order = channel_order(dataset.get('pipeline') or [])
        return order == 'BGR' and shape[0] == 3

    def _test_output(self) -> List[str]:
        """The table that the cohort's test prints."""
        topk = next(
            metric.get('topk') or TOPK for metric in self.run.test_metrics
            if is_part(metric, BranchMetrics))
        metrics = {
            f'{name}/{key}': value
            for name in sorted(self.logits)
            for key, value in accuracy(self.logits[name], self.images.labels, (
                topk, ) if isinstance(topk, int) else topk).items()
        }
        metrics[DISAGREEMENT] = self._disagreement()
        return accuracy_table(metrics).splitlines()


def _place(out: str) -> str:
    """The folder as commands in a card name it: relative to where the user
    is, without what is of this machine only."""
    path = osp.relpath(out)
    outside = path.startswith(osp.pardir) or osp.isabs(path)
    return (osp.basename(osp.abspath(out)) if outside else path).replace(
        os.sep, '/')
