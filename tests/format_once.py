"""MMEngine formats the config for every checkpoint, which takes longer than
the steps of the networks here. Once this is imported, nothing is formatted
twice in a process.
"""
import functools

from yapf.yapflib import yapf_api

FORMATTED = {}


@functools.wraps(yapf_api.FormatCode)
def format_once(text, *args, format_code=yapf_api.FormatCode, **kwargs):
    key = text, repr((args, kwargs))
    if key not in FORMATTED:
        FORMATTED[key] = format_code(text, *args, **kwargs)
    return FORMATTED[key]


yapf_api.FormatCode = format_once
