"""Cases of the tests; their processes import them from here."""
import multiprocessing
import os
import signal
import subprocess
import sys
import time

from mcod_plugin.datasets import Digits


class DeadlyDigits(Digits):
    """Images that kill the process of a case."""

    def __getitem__(self, index):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def note(path, *words):
    with open(path, 'a') as file:
        print(*words, file=file)


def note_steps(path, name, timer):
    """Notes each step, with its process."""
    timer.start(images=2, warm_up=1, lead_in=0, name=name)
    while True:
        time.sleep(.01)
        note(path, name, os.getpid())
        timer.step()


def tell(timer):
    """Tells whether its process had nothing left to import."""
    timer.start(warm_up=0, preloaded='speed.preload' in sys.modules)
    while True:
        timer.step()


def fail(timer):
    """Makes a mistake in its second step."""
    timer.start(warm_up=0)
    timer.step()
    raise ValueError('the step\nfails')


def die(timer):
    """Is killed while it builds."""
    os.kill(os.getpid(), signal.SIGKILL)


def end(timer):
    """Comes to an end of its own accord."""
    timer.start(warm_up=0)


def hang(path, timer):
    """Never sleeps, and has a process of its own."""
    child = subprocess.Popen(['sleep', '60'])
    note(path, os.getpid(), child.pid)
    timer.start()
    time.sleep(60)
