"""Contenders of the tests; their processes import them from here."""
import multiprocessing
import os
import signal
import subprocess
import sys
import time

from mcod_plugin.datasets import Digits


class DeadlyDigits(Digits):
    """Images that kill the process of a contender."""

    def __getitem__(self, index):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def note(path, *words):
    with open(path, 'a') as file:
        print(*words, file=file)


def play(path, name, turns):
    """Notes each step, with its process."""
    turns.start(images=2, warm_up=1, lead_in=0, name=name)
    while True:
        time.sleep(.01)
        note(path, name, os.getpid())
        turns.step()


def tell(turns):
    """Tells whether its process had nothing left to import."""
    turns.start(warm_up=0, preloaded='speed.preload' in sys.modules)
    while True:
        turns.step()


def fail(turns):
    """Makes a mistake in its second step."""
    turns.start(warm_up=0)
    turns.step()
    raise ValueError('the step\nfails')


def die(turns):
    """Is killed while it builds."""
    os.kill(os.getpid(), signal.SIGKILL)


def end(turns):
    """Comes to an end of its own accord."""
    turns.start(warm_up=0)


def hang(path, turns):
    """Never gives its turn back, and has a process of its own."""
    child = subprocess.Popen(['sleep', '60'])
    note(path, os.getpid(), child.pid)
    turns.start()
    time.sleep(60)
