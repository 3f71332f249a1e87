"""How the process table asks for processes: not too many, and only where there is a mold."""

from __future__ import annotations

from table_play import TIMEOUTS, Play

from obworker.supervisor.agenda import MOST_SPAWNING
from obworker.supervisor.slots import Action, Seat
from obworker.supervisor.table import UNREACHABLE_TIMEOUT


def seat_of(play: Play) -> Seat:
    return play.table.slots[0].seats[0]


def test_a_process_is_found_by_its_pid_until_it_is_gone() -> None:
    play = Play(1)
    play.act()
    seat = seat_of(play)
    play.table.spawned(seat, 123)
    assert play.table.of_pid(123) is seat
    play.table.exited(seat, play.now)
    assert play.table.of_pid(123) is None


def test_a_worker_that_imports_by_itself_has_the_time_for_both() -> None:
    play = Play(1)
    play.act()
    play.table.spawned(seat_of(play), 123, loads=True)
    assert play.left == TIMEOUTS.load + TIMEOUTS.boot


def test_only_a_few_workers_are_asked_for_at_a_time() -> None:
    play = Play(MOST_SPAWNING + 2)
    assert play.act() == [(Action.SPAWN, slot) for slot in range(MOST_SPAWNING)]
    play.happen("spawned", "2")
    assert play.act() == [(Action.SPAWN, MOST_SPAWNING)]


def test_a_slot_whose_turn_to_be_asked_for_has_not_come_is_no_reason_to_wake_up() -> None:
    play = Play(MOST_SPAWNING + 1)
    play.act()
    play.happen("fail", "0")
    play.act()
    assert play.picture == "backoff spawning1 spawning1 spawning1 spawning1"
    play.now += 1
    play.act()
    assert play.left == 9
    play.happen("spawned", "1")
    assert play.act() == [(Action.SPAWN, 0)]


def test_a_start_waits_for_its_mold() -> None:
    Play(2).tell("""
        forget 1 | - -
        wait 99  | - -
        mold 1   | spawning1 spawning1
    """)


def test_a_wait_for_a_mold_is_no_reason_to_wake_up() -> None:
    play = Play(1)
    play.act()
    play.tell("""
        boot 0           | idle1
        forget 1, crash 0 | backoff   | retry 0
    """)
    assert play.left is None
    play.tell("mold 1 | spawning1")


def test_spawns_that_fail_at_once_and_end_the_start_leave_no_other_due() -> None:
    class CannotSpawn(Play):
        def carry_out(self, action: Action, seat: Seat) -> None:
            super().carry_out(action, seat)
            if action is Action.SPAWN:
                self.exited(seat)

    play = CannotSpawn(8)
    for action, seat in play.agenda.due(play.now):
        play.carry_out(action, seat)
    assert play.table.stopping
    assert play.table.is_over


def test_a_process_that_the_mold_took_with_it_is_no_failed_boot() -> None:
    play = Play(1)
    play.act()
    for _ in range(10):
        play.table.unspawned(seat_of(play))
        assert play.act() == [(Action.SPAWN, 0)]
    play.table.stop()
    play.table.unspawned(seat_of(play))
    assert play.table.is_over


def test_a_process_that_cannot_tell_of_itself_is_soon_given_up() -> None:
    play = Play(1)
    play.act()
    play.table.unreachable(seat_of(play), play.now)
    assert play.left == UNREACHABLE_TIMEOUT
    play.tell(f"wait {UNREACHABLE_TIMEOUT} | backoff")
