import os
import os.path as osp
import shutil
from typing import Any, Dict, List, Optional

import numpy as np
import torch
import torch.nn as nn

from mcod_plugin.cli import read_config
from mcod_plugin.engine.hooks.cohort_report_hook import (count_flops,
                                                         network_name,
                                                         result_table)
from mcod_plugin.evaluation.branch_metrics import pairwise_disagreement
from mcod_plugin.export.cohort import branch_model, branch_pixels, load_cohort
from mcod_plugin.export.data_config import source_loader
from mcod_plugin.export.images import Images
from mcod_plugin.export.mmpretrain_format import write_mmpretrain
from mcod_plugin.export.safetensors_format import write_safetensors
from mcod_plugin.export.verify import Job, check_logits, reload_logits
from mcod_plugin.utils.checkpoint import read_checkpoint
from mcod_plugin.utils.files import write_text
from mcod_plugin.utils.machine import cpu_name, describe_machine
from .card import branch_card, cohort_card
from .data_facts import data_facts, data_part, data_split
from .figures import draw_branch, draw_cohort
from .measure import accuracy, cohort_logits, confusion_matrix, median_latency
from .member import Member
from .metafile import metafile
from .publication import Publication
from .run import Run
from .weights import publish_name, published_config, write_cohort

__all__ = ['Publisher']

ENSEMBLE = 'ensemble'
TOPK = (1, 5)
RUNS, THREADS = 30, 1


class Publisher:
    """Publishes a cohort into a folder.

    Args:
        name (str): Name of the cohort.
        out (str): The folder as the user names it.
        folder (str): The folder that takes its place in the end.
        run (Run): The run.
        solo (Run, optional): The run of the solo baseline.
        images (Images): The validation images.
    """

    def __init__(self, name: str, out: str, folder: str, run: Run,
                 solo: Optional[Run], images: Images) -> None:
        self.name = name
        self.out = out
        self.folder = folder
        self.run = run
        self.solo = solo
        self.images = images
        self.machine = describe_machine()

    def publish(self) -> Publication:
        """Write everything.

        Returns:
            Publication: What was written.
        """
        self.cohort = self._write_cohort()
        self.logits = cohort_logits(self.cohort, self.images.pixels)
        self.solo_metrics = self._solo_metrics()
        branches = self._branches()
        branches.sort(key=lambda member: -member.metrics['top1'])
        loader = source_loader(self.run.cfg)
        names = list(self.cohort.branches)
        publication = Publication(
            name=self.name,
            place=_place(self.out),
            run=self.run,
            solo=self.solo,
            branches=branches,
            ensemble=self._ensemble(branches),
            data=data_facts(loader),
            split=data_split(loader),
            part=data_part(loader),
            images=len(self.images.labels),
            disagreement=self._disagreement(),
            machine=self.machine,
            cpu=cpu_name(),
            runs=RUNS,
            threads=THREADS)
        publication.ensemble.figures = draw_cohort(self.run, names,
                                                   self._confusion(ENSEMBLE),
                                                   self.classes, self.folder)
        for member in publication.members:
            is_branch = member is not publication.ensemble
            if is_branch:
                member.figures = draw_branch(
                    self.run, self.solo, member.name,
                    self._confusion(member.name), self.classes,
                    osp.join(self.folder, member.folder))
            text = (
                branch_card(publication, member)
                if is_branch else cohort_card(publication))
            write_text(osp.join(self.folder, member.path('README.md')), text)
        write_text(
            osp.join(self.folder, 'metafile.yml'), metafile(publication))
        return publication

    @property
    def classes(self) -> List[str]:
        """Names of the classes; their numbers if they have none."""
        return self._known_classes or [
            str(index) for index in range(self.cohort.num_classes)
        ]

    @property
    def _known_classes(self) -> Optional[List[str]]:
        dataset_meta = self.run.meta.get('dataset_meta') or {}
        found = dataset_meta.get('classes') or self.images.classes
        return [str(name) for name in found] if found else None

    @property
    def _origin(self) -> Dict[str, Any]:
        found = dict(
            config=osp.basename(self.run.cfg.filename),
            checkpoint=osp.basename(self.run.checkpoint),
            versions=self.machine['versions'])
        for key in ('epoch', 'iter', 'seed'):
            if isinstance(self.run.meta.get(key), int):
                found[key] = self.run.meta[key]
        return found

    def _write_cohort(self) -> nn.Module:
        """Write config and weights of the cohort, and load what was
        written."""
        run = self.run
        cohort = load_cohort(run.cfg, run.checkpoint, run.content)
        classes = self._known_classes
        meta = dict(
            dataset_meta=dict(classes=classes) if classes else {},
            **self._origin)
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
            for name, logits in cohort_logits(cohort,
                                              self.images.pixels).items()
        }

    def _confusion(self, name: str) -> np.ndarray:
        return confusion_matrix(self.logits[name].argmax(1),
                                self.images.labels, self.cohort.num_classes)

    def _disagreement(self) -> float:
        predicted = [
            self.logits[name].argmax(1) for name in self.cohort.branches
        ]
        return pairwise_disagreement(torch.from_numpy(np.stack(predicted, 1)))

    def _branches(self) -> List[Member]:
        """Write and verify the branches."""
        models = {}
        for name in self.cohort.branches:
            model = branch_model(self.run.cfg, self.cohort, name, self.images,
                                 self._known_classes, self._origin)
            model.metrics = dict(
                self._accuracy(self.logits[name]), images=self.images.source)
            folder = osp.join(self.folder, name)
            os.mkdir(folder)
            write_mmpretrain(model, folder)
            write_safetensors(model, folder)
            models[name] = model
        found = self._reload(models)
        return [
            self._branch(model, found[model.name])
            for model in models.values()
        ]

    def _reload(self, models: Dict[str, Any]) -> Dict[str, np.ndarray]:
        """Logits of the files that were written, opened in a fresh
        process."""
        work = osp.join(self.folder, '.work')
        os.mkdir(work)
        # Branches that see the same images share a file.
        saved: Dict[Any, str] = {}
        jobs: Dict[bool, List[Job]] = {False: [], True: []}
        for name, model in models.items():
            settings = self.cohort.branch_settings[name]
            size = settings.input_size if settings.resized else None
            if size not in saved:
                saved[size] = osp.join(work, f'{len(saved)}.npy')
                np.save(saved[size],
                        branch_pixels(self.cohort, name, self.images.pixels))
            jobs[model.needs_plugin] += [
                Job(format=format,
                    folder=osp.join(self.folder, name),
                    images=saved[size],
                    order=model.data_order,
                    logits=osp.join(work, f'{name}_{format}.npy'))
                for format in ('safetensors', 'mmpretrain')
            ]
        found = {}
        for plugin, group in jobs.items():
            for job, logits in zip(
                    group, reload_logits(group, len(self.images.pixels),
                                         plugin)):
                name = osp.basename(job.folder)
                check_logits(name, job.format, logits, self.logits[name])
                # Those of the checkpoint, which come last.
                found[name] = logits
        shutil.rmtree(work)
        return found

    def _branch(self, model: Any, logits: np.ndarray) -> Member:
        folder = osp.join(self.folder, model.name)
        weights, digest = publish_name(folder, self._model_name(model.name))
        metrics = self._accuracy(logits)
        shape = (1, *model.input_shape)
        return Member(
            name=model.name,
            model_name=self._model_name(model.name),
            folder=model.name,
            network=network_name(model.classifier),
            weights=weights,
            sha256=digest,
            sizes=_sizes(folder),
            parameters=_parameters(model.classifier),
            flops=count_flops(model.classifier, shape),
            latency=median_latency(model.classifier, shape, RUNS, THREADS),
            input_shape=model.input_shape,
            channel_order=model.data_order,
            # Without names of classes, MMPretrain looks at the data set.
            needs_plugin=model.needs_plugin
            or (model.tests_need_plugin and not model.classes),
            metrics=metrics,
            solo=self.solo_metrics.get(model.name, {}),
            test_output=[f'accuracy/top1: {metrics["top1"]:.4f}'])

    def _ensemble(self, branches: List[Member]) -> Member:
        weights, digest = self.weights
        shape = (1, *self.images.pixels.shape[1:])
        metrics = self._accuracy(self.logits[ENSEMBLE])
        flops = [member.flops for member in branches]
        return Member(
            name=ENSEMBLE,
            model_name=self._model_name(ENSEMBLE),
            folder='',
            network=f'all {len(branches)} branches',
            weights=weights,
            sha256=digest,
            sizes=_sizes(self.folder),
            parameters=_parameters(self.cohort),
            flops=None if None in flops else sum(flops),
            latency=median_latency(self.cohort, shape, RUNS, THREADS),
            input_shape=shape[1:],
            channel_order=branches[0].channel_order,
            needs_plugin=True,
            metrics=metrics,
            solo=self.solo_metrics.get(ENSEMBLE, {}),
            test_output=self._test_output())

    def _test_output(self) -> List[str]:
        """The table that the cohort's test prints."""
        evaluator = self.run.cfg.get('test_evaluator')
        evaluator = evaluator if isinstance(evaluator, list) else [evaluator]
        topk = next((metric['topk']
                     for metric in evaluator if metric and 'topk' in metric),
                    TOPK)
        metrics = {
            f'{name}/{key}': value
            for name in sorted(self.logits)
            for key, value in accuracy(self.logits[name], self.images.labels, (
                topk, ) if isinstance(topk, int) else topk).items()
        }
        metrics['diversity/disagreement'] = self._disagreement()
        return result_table(metrics).splitlines()


def _parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _sizes(folder: str) -> Dict[str, int]:
    """Size in bytes of each file of a folder."""
    return {
        file: osp.getsize(osp.join(folder, file))
        for file in sorted(os.listdir(folder))
        if osp.isfile(osp.join(folder, file))
    }


def _place(out: str) -> str:
    """The folder as commands in a card name it: relative to where the user
    is, without what is of this machine only."""
    path = osp.relpath(out)
    outside = path.startswith(osp.pardir) or osp.isabs(path)
    return (osp.basename(osp.abspath(out)) if outside else path).replace(
        os.sep, '/')
