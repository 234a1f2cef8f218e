from typing import Callable, Dict, Mapping, Optional, Sequence

from torch import Tensor, nn


class BaseTeacher(nn.Module):
    """What a cohort asks of its teacher: the targets, and the ensemble's
    prediction.

    A subclass has :meth:`ensemble` and :meth:`forward`, and says by its
    attributes, of the class or of an instance, what else it is given. It is
    given nothing that it does not ask for.

    Attributes:
        needs_labels (bool): Whether :meth:`forward` is called with
            ``labels=``, the labels as probabilities ``(N, C)``.
        needs_feats (bool): Whether :meth:`forward` is called with ``feats=``,
            by branch the tuple of its backbone's features.
        needs_images (bool): Whether :meth:`forward` is called with
            ``images=``, by branch its images ``(N, C, H, W)``.
        per_peer (bool): Whether a target is the logits ``(P, N, C)`` of P
            peers instead of ``(N, C)``. Its loss must take such targets.
        takes_alive (bool): Whether it can leave branches out. All its methods
            but :meth:`setup` are then called with ``alive=``, a dict of
            boolean scalars by branch, once
            :meth:`MultiBackboneClassifier.leave_out_diverged` was called.
            Where nobody is left to teach a branch, its target is NaN. To any
            other teacher, a branch that is left out has the mean logits of
            the others.
        takes_multi_label (bool): Whether it is defined for images of several
            labels, whose scores are sigmoids of the logits, not their
            softmax. Labels are then 1 for each class that an image has.
        multi_label (bool): Whether the images have several labels. The cohort
            sets it before it calls :meth:`setup`.
        ordered (bool): Whether its weights go by the order of the branches,
            so that a checkpoint fits a cohort of that order only.
        loss (Callable, optional): ``loss(logits, labels)``, a method that
            gives losses of its own by name, as a dict of scalars. They are
            added in every step, in on- and off-phases alike, so that its
            parameters are always trained; only a cohort without distillation
            loss does not ask for them. The labels are probabilities ``(N,
            C)``. None, the default, if there is no such method.

    Examples:
        >>> class FirstTeacher(BaseTeacher):
        ...     '''All others follow the first branch.'''
        ...     def ensemble(self, logits):
        ...         return torch.stack(list(logits.values())).mean(0)
        ...     def forward(self, logits):
        ...         first, *others = logits
        ...         return dict.fromkeys(others, logits[first].detach())
    """

    needs_labels = False
    needs_feats = False
    needs_images = False
    per_peer = False
    takes_alive = False
    takes_multi_label = False
    multi_label = False
    ordered = False
    loss: Optional[Callable[..., Dict[str, Tensor]]] = None

    def setup(self, names: Sequence[str], num_classes: int) -> None:
        """Check settings and make parameters. The cohort calls this once,
        when it is built.

        Args:
            names (Sequence[str]): Names of the branches.
            num_classes (int): Number C of classes.

        Raises:
            ConfigError: If the teacher is not for such a cohort.
        """

    def begin(self, branches: Mapping[str, nn.Module]) -> None:
        """Make what begins as the branches do. The cohort calls this once it
        is built, and again when its weights are initialised.

        Args:
            branches (Mapping[str, nn.Module]): The classifiers by name that
                are trained.
        """

    def missing_state(self, state_dict: Mapping[str,
                                                Tensor]) -> Dict[str, Tensor]:
        """What to add to weights of a cohort before they are loaded, if they
        lack what the teacher can begin without.

        Args:
            state_dict (Mapping[str, Tensor]): A cohort's state dict.

        Returns:
            dict[str, Tensor]: What is to be added; nothing, as a rule.
        """
        return {}

    def ensemble(self, logits: Dict[str, Tensor]) -> Tensor:
        """The prediction of the ensemble.

        Args:
            logits (dict[str, Tensor]): Logits ``(N, C)`` of all branches.

        Returns:
            Tensor: Logits ``(N, C)``.
        """
        raise NotImplementedError

    def forward(self, logits: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """What the branches have to follow.

        Args:
            logits (dict[str, Tensor]): Logits ``(N, C)`` of all branches.

        Returns:
            dict[str, Tensor]: Target logits ``(N, C)`` by branch, through
            which no gradient flows. A branch that has none is not distilled.
            Branches that follow the same may share the tensor.
        """
        raise NotImplementedError
