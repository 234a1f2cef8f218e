"""Data sets."""
from .batch_collate import batch_collate
from .digits import Digits
from .in_memory_dataset import InMemoryDataset

__all__ = ['Digits', 'InMemoryDataset', 'batch_collate']
