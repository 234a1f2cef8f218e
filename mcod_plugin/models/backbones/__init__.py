from .cifar_alexnet import CifarAlexNet
from .cifar_densenet import CifarDenseNet
from .cifar_resnet import CifarResNet
from .cifar_vgg import CifarVGG

__all__ = ['CifarAlexNet', 'CifarDenseNet', 'CifarResNet', 'CifarVGG']
