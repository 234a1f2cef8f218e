from .graph_setting import graphed_step
from .graphed_step import GraphedStep

__all__ = ['GraphedStep', 'graphed_step']
