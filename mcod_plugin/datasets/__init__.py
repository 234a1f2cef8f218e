"""Data sets."""
from .batch_collate import batch_collate
from .branch_views import BranchViews
from .digits import Digits
from .in_memory_dataset import InMemoryDataset

__all__ = ['BranchViews', 'Digits', 'InMemoryDataset', 'batch_collate']
