from .layout_pooling import LayoutPooling

__all__ = ['LayoutPooling']
