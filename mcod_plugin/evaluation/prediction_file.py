from mmengine import dump
from mmengine.evaluator import DumpResults

from mcod_plugin.utils.files import new_file


class PredictionFile(DumpResults):
    """A pickle file of all predictions, which is written as a whole."""

    def compute_metrics(self, results: list) -> dict:
        """Write the file."""
        with new_file(self.out_file_path) as part:
            dump(results, part, file_format='pkl')
        return {}
