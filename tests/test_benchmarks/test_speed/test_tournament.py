from functools import partial

from speed.tournament import order, play


def test_order_rotates():
    assert list(order('abc', 4)) == [['a', 'b', 'c'], ['b', 'c', 'a'],
                                     ['c', 'a', 'b'], ['a', 'b', 'c']]


def test_turns_are_interleaved(players, tmp_path):
    notes = tmp_path / 'notes'
    contenders = {name: partial(players.play, notes, name) for name in 'abc'}
    scores = play(contenders, rounds=3, seconds=.02, threads=1)
    assert list(scores) == ['a', 'b', 'c']
    lengths = {}
    for name, score in scores.items():
        assert score.images == 2 and score.facts == dict(name=name)
        (lengths[name], ) = {steps for _, steps in score.turns}
        assert len(score.turns) == 3
    # Each warms up by a step and finds the length of its turns.
    expected = [name for name in 'abc' for _ in range(1 + lengths[name])]
    for name in 'abc' 'bca' 'cab':
        expected += [name] * lengths[name]
    found = [line.split()[0] for line in notes.read_text().splitlines()]
    assert found == expected
