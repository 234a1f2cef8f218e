import logging

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope, init_default_scope


@pytest.fixture(autouse=True)
def mmengine_globals():
    """MMEngine keeps loggers, message hubs and scopes in globals by name."""
    init_default_scope('mmpretrain')
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler):
                handler.close()
    for holder in (MMLogger, MessageHub, DefaultScope):
        holder._instance_dict.clear()
