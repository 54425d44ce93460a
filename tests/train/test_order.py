from mezzotint.train.order import positions, turns
from mezzotint.types import Phase


def test_every_epoch_visits_every_image_once_in_an_order_of_its_own():
    epochs = [positions(3, 17, 17 * e, 17) for e in range(3)]
    assert all(sorted(e) == list(range(17)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert positions(4, 17, 0, 17) != epochs[0]


def test_any_window_is_a_window_of_the_whole_stream():
    whole = positions(0, 5, 0, 40)
    assert all(positions(0, 5, start, 13) == whole[start : start + 13] for start in range(27))


def test_turns_follow_every_repeats_and_fresh_batches():
    phases = (Phase("a", (), repeats=2, every=2), Phase("b", (), repeats=2, fresh_batch=False))
    assert [(t.phase, t.repeat, t.draws) for t in turns(phases, 0)] == [(0, 0, True), (0, 1, True), (1, 0, False), (1, 1, False)]
    assert [(t.phase, t.repeat, t.draws) for t in turns(phases, 1)] == [(1, 0, True), (1, 1, False)]
