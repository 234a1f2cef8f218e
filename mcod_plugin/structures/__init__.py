from .batch_data_sample import BatchDataSample

__all__ = ['BatchDataSample']
