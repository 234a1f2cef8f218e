from .batch_data_sample import BatchDataSample, batch_fields

__all__ = ['BatchDataSample', 'batch_fields']
