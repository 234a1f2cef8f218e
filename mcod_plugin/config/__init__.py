"""Everything that reads or rewrites a config, one definition per question.

It is read before anything is built, so nothing here knows the models, the
data sets or the hooks. The command line tools ask :mod:`.read` for their
``--help`` too, so that imports what takes seconds where it is used.
"""
