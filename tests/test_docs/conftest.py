from ..test_tools.conftest import run_tool, server  # noqa: F401
