"""The engine's lock: in turn, and re-entrant."""

import threading
import time

from dogerm.threads import FairLock


def test_a_lock_taken_again_and_again_is_handed_over_in_between():
    lock, turns, begun = FairLock(), [], threading.Event()

    def wait_for_a_turn():
        begun.set()
        with lock:
            turns.append("visitor")

    with lock:
        visitor = threading.Thread(target=wait_for_a_turn)
        visitor.start()
        begun.wait()
        time.sleep(0.05)  # until the visitor stands in line
        turns.append("long run")
    with lock:  # asked for after the visitor has
        turns.append("long run")
    visitor.join()
    assert turns == ["long run", "visitor", "long run"]


def test_a_thread_may_take_it_twice_and_must_let_go_twice():
    lock, got = FairLock(), threading.Event()

    def other():
        with lock:
            got.set()

    with lock:
        with lock:
            pass
        thread = threading.Thread(target=other)
        thread.start()
        assert not got.wait(0.05)
    thread.join()
    assert got.is_set()


def test_no_two_threads_are_in_it_at_once():
    lock, inside, most = FairLock(), 0, 0

    def work():
        nonlocal inside, most
        for _ in range(50):
            with lock:
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
