"""What the process imports from which the workers are forked.

Only that process may import this module.
"""
import atexit
import os
from contextlib import suppress

import matplotlib.pyplot  # noqa: F401
import mmengine.visualization  # noqa: F401
import mmpretrain.datasets  # noqa: F401
import mmpretrain.evaluation  # noqa: F401
import mmpretrain.models  # noqa: F401
import mmpretrain.visualization  # noqa: F401

import speed.cases  # noqa: F401
import mcod_plugin.datasets  # noqa: F401
import mcod_plugin.engine  # noqa: F401
import mcod_plugin.evaluation  # noqa: F401
import mcod_plugin.models  # noqa: F401

# Of the handwritten digits.
with suppress(ImportError):
    import sklearn.datasets  # noqa: F401

# It must not outlive the benchmark for the seconds in which all of that would
# be taken down.
atexit.register(os._exit, 0)
