from .graph_setting import recorded_step
from .graphed_step import GraphedStep

__all__ = ['GraphedStep', 'recorded_step']
