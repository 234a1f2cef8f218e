"""The timer, without a process of its own."""
import time

import pytest
import torch


def test_samples_have_the_length_that_the_warm_up_has_found(course):
    course = course(samples=2)
    course.timer.start(images=8, warm_up=2, lead_in=0, note='x')
    count = 0

    def step():
        nonlocal count
        count += 1
        # The warm-up is slow, and must not count.
        time.sleep(.1 if count <= 2 else .002)
        course.timer.step()

    built, ready, (first, steps), (second, same) = course.run_steps(step)
    assert built is None
    assert ready == dict(images=8, peak_bytes=None, facts=dict(note='x'))
    assert steps == same and 1 <= steps <= 10
    assert count == 2 + 3 * steps
    assert min(first, second) >= .002 * steps


def test_a_sample_begins_with_steps_that_are_not_timed(course):
    course = course(samples=1, seconds=.1)
    course.timer.start(warm_up=0, lead_in=3)
    count = 0

    def step():
        nonlocal count
        count += 1
        time.sleep(.001)
        course.timer.step()

    *_, (_, steps) = course.run_steps(step)
    assert steps >= 5
    assert count == 2 * steps + min(3, steps // 5)


def test_no_such_steps_where_they_would_be_too_long(course):
    course = course(samples=1)
    course.timer.start(warm_up=0, lead_in=5)
    count = 0

    def step():
        nonlocal count
        count += 1
        time.sleep(.01)
        course.timer.step()

    *_, (_, steps) = course.run_steps(step)
    assert steps < 5 and count == 2 * steps


def test_several_steps_at_a_time(course):
    course = course(samples=1, seconds=1e-4)
    course.timer.start(warm_up=0)

    def step():
        time.sleep(.001)
        course.timer.step(7)

    *_, (_, steps) = course.run_steps(step)
    assert steps == 7


def test_ends_of_epochs_do_not_count(course):
    course = course(samples=2, seconds=.015)
    course.timer.start(warm_up=0, lead_in=0)
    count = 0

    def epoch():
        nonlocal count
        for index in range(6):
            # The first one has to wait for the loader.
            time.sleep(.2 if index in (0, 5) and count else .002)
            count += index not in (0, 5) or count == 0
            course.timer.batch(index, 6)

    _, _, *samples = course.run_steps(epoch)
    for seconds, steps in samples:
        assert .002 * steps <= seconds < .2
    assert count == 3 * samples[0][1]


def test_epochs_of_a_batch_or_two_count(course):
    course = course(samples=1)
    course.timer.start(warm_up=0, lead_in=0)

    def epoch():
        for index in range(2):
            time.sleep(.002)
            course.timer.batch(index, 2)

    *_, (_, steps) = course.run_steps(epoch)
    assert steps >= 2


def test_memory_of_building_does_not_count(course):
    course = course(samples=0)
    course.timer.watch_memory()
    if course.timer._memory.read() is None:
        pytest.skip('this system does not tell')
    b'x' * 2**28
    course.timer.start(warm_up=0)
    held = b'x' * 2**26
    _, values = course.run_steps(course.timer.step)
    assert 60 * 2**20 <= values['peak_bytes'] < 2**27
    del held


class Memory:
    """An account that is read, and forgets its peak when asked to."""

    def __init__(self):
        self.used = self.peak = 0

    def use(self, size):
        self.used, self.peak = size, max(self.peak, size)

    def forget(self):
        self.peak = self.used

    def read(self):
        return self.peak


@pytest.mark.parametrize('own', [False, True])
@pytest.mark.parametrize('cuda, expected', [(False, 90), (True, 20)])
def test_memory_of_the_search_for_algorithms(course, monkeypatch, cuda,
                                             expected, own):
    """What the first steps take besides counts on a CPU only."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    course = course(samples=0)
    timer, timer._memory = course.timer, Memory()

    def case(timer):
        timer.start(warm_up=0 if own else 2)
        for size in (90, 80):
            timer._memory.use(size)
            timer._memory.use(10)
            if not own:
                timer.step()
        if own:
            timer.warmed_up()
        while True:
            timer._memory.use(20)
            timer._memory.use(10)
            timer.step()

    _, values = course.run(case)
    assert values['peak_bytes'] == expected


def test_who_sleeps_leaves_the_gpu_to_others(course, monkeypatch):
    """Else all cases together would need room at once."""
    course = course(samples=2)
    freed = []

    def empty_cache():
        # What it tells lets another one go on.
        freed.append(course.pipe.poll())

    monkeypatch.setattr(torch.cuda, 'empty_cache', empty_cache)
    course.timer.start(lead_in=0)
    told = course.run_steps(course.timer.step)
    assert len(told) == len(freed) == 4
    assert not freed[0]
