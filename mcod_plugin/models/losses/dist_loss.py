import torch
from torch import Tensor

from mcod_plugin.errors import ConfigError, check_number
from mcod_plugin.registry import MODELS
from .base_kd_loss import BaseKDLoss

# Keeps a product of norms from 0, as in the authors' code.
EPSILON = 1e-8


def dist_loss(student_logits: Tensor,
              teacher_logits: Tensor,
              temperature: float = 1.0,
              beta: float = 2.0,
              gamma: float = 2.0) -> Tensor:
    r"""Distillation loss by correlations instead of a divergence.

    With :math:`P` and :math:`Q` the probabilities ``(N, C)`` of teacher and
    student at temperature :math:`T`, and :math:`\rho` the correlation
    coefficient of Pearson,

    .. math::
        L = T^2 \left(
            \beta \left( 1 - \frac{1}{N} \sum_n \rho(Q_{n:}, P_{n:}) \right) +
            \gamma \left( 1 - \frac{1}{C} \sum_c \rho(Q_{:c}, P_{:c}) \right)
        \right)

    The first term compares the classes of an image, the second the images of
    a class. This is `Knowledge Distillation from A Stronger Teacher
    <https://arxiv.org/abs/2205.10536>`_ (Huang et al., NeurIPS 2022); the
    factor :math:`T^2` and the :math:`10^{-8}` that is added to each product
    of norms are those of the authors' code.

    Unlike there, what varies by no more than rounding errors has the
    correlation 0 and no gradient. Such is a student whose last layer starts
    with zeros; there its gradient is as large as :math:`10^8`. One image alone
    has no second term to learn from. Of several processes, each compares the
    images that it has.

    Logits of half precision are compared in float32. No gradient flows to the
    teacher.

    Args:
        student_logits (Tensor): Logits of shape ``(N, C)``, or ``(B, N, C)``
            of B students at once.
        teacher_logits (Tensor): Logits of the same shape, or of shape
            ``(N, C)`` if all students have the same teacher.
        temperature (float): The temperature, greater than 0.
            Defaults to 1.0.
        beta (float): The weight of the relation of classes. Defaults to 2.0.
        gamma (float): The weight of the relation of images. Defaults to 2.0.

    Returns:
        Tensor: The loss, a scalar; of B students their losses ``(B, )``.
    """
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = (student_logits.to(dtype) / temperature).softmax(-1)
    teacher = (teacher_logits.detach().to(dtype) / temperature).softmax(-1)
    classes = 1 - correlation(student, teacher, -1).mean(-1)
    images = 1 - correlation(student, teacher, -2).mean(-1)
    return temperature**2 * (beta * classes + gamma * images)


def correlation(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Pearson's correlation coefficient.

    Args:
        first (Tensor): Values.
        second (Tensor): Values of a shape that can be broadcast.
        dim (int): The dimension that the values to be compared are along.

    Returns:
        Tensor: The coefficients, without that dimension; 0, with a gradient
        of 0, where one side is constant.
    """
    first = first - first.mean(dim, keepdim=True)
    second = second - second.mean(dim, keepdim=True)
    norms = first.norm(dim=dim), second.norm(dim=dim)
    found = (first * second).sum(dim) / (norms[0] * norms[1] + EPSILON)
    # By no more than rounding errors.
    smallest = torch.finfo(found.dtype).eps
    constant = (norms[0] < smallest) | (norms[1] < smallest)
    return found.masked_fill(constant, 0.)


@MODELS.register_module()
class DISTLoss(BaseKDLoss):
    r"""DIST: a student has to agree with its teacher in relations only,
    between classes and between images.

    See :func:`dist_loss`, which says where the formula comes from and what
    differs. The defaults are those of the authors for ImageNet. For CIFAR-100
    they have a temperature of 4 and the same weights, with a teacher that was
    trained before. That is too much for branches that begin together and
    teach each other: a correlation has the greater a gradient the less the
    probabilities vary, and at a high temperature they hardly do at first.

    Args:
        temperature (float): The temperature, greater than 0.
            Defaults to 1.0.
        beta (float): The weight of the relation of classes, at least 0.
            Defaults to 2.0.
        gamma (float): The weight of the relation of images, at least 0; not
            both are 0. Defaults to 2.0.

    Raises:
        ConfigError: If a setting is none of those allowed.

    Examples:
        >>> model = dict(distill=dict(type='mcod_plugin.DISTLoss'))
    """

    def __init__(self,
                 temperature: float = 1.0,
                 beta: float = 2.0,
                 gamma: float = 2.0) -> None:
        super().__init__()
        check_number(
            'distill.temperature', temperature, minimum=0, exclusive=True)
        check_number('distill.beta', beta, minimum=0)
        check_number('distill.gamma', gamma, minimum=0)
        if beta == gamma == 0:
            raise ConfigError('distill.beta and distill.gamma must not both '
                              'be 0')
        self.temperature = temperature
        self.beta = beta
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the losses ``(B, )``, see :class:`BaseKDLoss`; of one
        student's logits ``(N, C)`` a scalar."""
        return dist_loss(logits, targets, self.temperature, self.beta,
                         self.gamma)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return (f'temperature={self.temperature}, beta={self.beta}, '
                f'gamma={self.gamma}')
