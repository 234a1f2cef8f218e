from .batch_data_sample import BatchDataSample, as_data_samples, batch_fields

__all__ = ['BatchDataSample', 'as_data_samples', 'batch_fields']
