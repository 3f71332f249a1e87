"""The queue through which connections move between processes."""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from obworker.http.exchange import HEADER, MAGIC, SEND_BUFFER_BYTES, Exchange, Parcel
from obworker.http.spool import GIVEN_AWAY, Spool

ROOT = Path(__file__).parents[2]
REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
MEGABYTE = bytes(range(256)) * 4096
SEVERAL_PROCESSES = """
import mmap, os, signal, socket, struct, sys, time
from obworker.http.exchange import Exchange, Parcel

def put(client, head, arrival, attempt, body=b""):
    return exchange.put(Parcel(client, head, body, arrival, attempt))

def child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work() or 0
        finally:
            os._exit(code)
    return pid

def wait(*pids):
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert status == 0, status

def poll(call):
    deadline = time.monotonic() + 30
    while (found := call()) is None or found is False:
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    return found

exchange = Exchange.create(100)
"""


def run(code: str, script: str = SEVERAL_PROCESSES) -> str:
    """Run code in a fresh interpreter: what forks, or runs out of something, is no test runner."""
    done = subprocess.run(
        [sys.executable, "-c", script + code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with closing(Exchange.create(4)) as made:
        yield made


@pytest.fixture(params=["TCP", "unix"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, ...]]:
    """A client's end of a connection, and the server's."""
    if request.param == "TCP":
        listener = socket.create_server(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
    with listener, socket.socket(listener.family) as ours:
        ours.settimeout(10)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        with theirs:
            theirs.setblocking(False)
            yield ours, theirs


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        yield theirs


def taken(exchange: Exchange) -> Parcel:
    parcel = exchange.take()
    assert parcel is not None
    return parcel


def put(
    exchange: Exchange, client: socket.socket, received: bytes, arrival: float, attempt: int
) -> bool:
    """Put a request of which nobody says where its head ends."""
    return exchange.put(Parcel(client, received, b"", arrival, attempt))


def foreign(exchange: Exchange, message: bytes, *descriptors: int) -> None:
    """Put something that is no parcel."""
    with socket.socket(fileno=os.dup(exchange.descriptors[1])) as writer:
        socket.send_fds(writer, [message], list(descriptors))


def header(magic: bytes = MAGIC, size: int = 0) -> bytes:
    return HEADER.pack(magic, 0, 1.0, 0, size)


def count_descriptors() -> int:
    gc.collect()  # what other tests have left behind has some, too
    return len(list(Path("/proc/self/fd").iterdir()))


# one parcel


@pytest.mark.parametrize("received", [b"", REQUEST, b"x" * 32768, b"x" * 32769, MEGABYTE], ids=len)
def test_a_connection_moves_with_what_it_holds(
    exchange: Exchange, ends: tuple[socket.socket, ...], received: bytes
) -> None:
    ours, theirs = ends
    family = theirs.family
    assert put(exchange, theirs, received, 12.5, 3)
    theirs.close()
    parcel = taken(exchange)
    assert (parcel.head, parcel.arrival, parcel.attempt) == (received, 12.5, 3)
    with parcel.client as client:
        assert (client.family, client.type) == (family, socket.SOCK_STREAM)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        assert not os.get_inheritable(client.fileno())
        client.sendall(b"answer")
        assert ours.recv(6) == b"answer"


@pytest.mark.parametrize("kind", ["small", "large", "spool"])
def test_a_body_moves_beside_its_head(
    exchange: Exchange, connection: socket.socket, kind: str
) -> None:
    content = b"{}" if kind == "small" else MEGABYTE
    body: bytes | Spool = content
    if kind == "spool":
        body = exchange.spools.open()
        body.write(content)
    for attempt in (0, 1, 2):  # what is taken can be put back
        assert exchange.put(Parcel(connection, REQUEST, body, 1.0, attempt))
        parcel = taken(exchange)
        parcel.client.close()
        assert (parcel.head, parcel.attempt) == (REQUEST, attempt)
        body = parcel.body
        assert isinstance(body, bytes) == (kind == "small")
    assert (body if isinstance(body, bytes) else body.read()) == content


def test_a_spool_is_given_away_as_it_is(exchange: Exchange, connection: socket.socket) -> None:
    spool = exchange.spools.open()
    spool.write(MEGABYTE)
    file = os.fstat(spool.descriptor).st_ino
    assert exchange.put(Parcel(connection, REQUEST, spool, 1.0, 0))
    assert spool.descriptor == GIVEN_AWAY
    with (parcel := taken(exchange)).client:
        assert isinstance(parcel.body, Spool)
        assert os.fstat(parcel.body.descriptor).st_ino == file


def test_a_spool_that_does_not_go_is_kept(connection: socket.socket) -> None:
    with closing(limited(100_000)) as exchange:
        fill(exchange, connection, REQUEST)
        spool = exchange.spools.open()
        spool.write(MEGABYTE)
        assert not exchange.put(Parcel(connection, REQUEST, spool, 1.0, 0))
        assert spool.read() == MEGABYTE


def test_a_connection_whose_client_has_left_moves_too(
    exchange: Exchange, ends: tuple[socket.socket, ...]
) -> None:
    ours, theirs = ends
    ours.close()
    assert put(exchange, theirs, REQUEST, 1.0, 0)
    with taken(exchange).client as client:
        assert client.recv(1) == b""


def test_nothing_is_taken_where_nothing_waits(exchange: Exchange) -> None:
    assert exchange.take() is None
    assert exchange.oldest() is None


def test_the_oldest_is_told_and_left_where_it_is(
    exchange: Exchange, connection: socket.socket
) -> None:
    before = count_descriptors()
    for arrival in (7.25, 8.5):
        assert put(exchange, connection, REQUEST, arrival, 0)
    assert exchange.oldest() == exchange.oldest() == 7.25
    assert count_descriptors() == before
    taken(exchange).client.close()
    assert exchange.oldest() == 8.5


def test_what_is_taken_can_be_put_back(exchange: Exchange, connection: socket.socket) -> None:
    assert put(exchange, connection, MEGABYTE, 1.0, 0)
    for attempt in (1, 2, 3):
        parcel = taken(exchange)
        assert put(exchange, parcel.client, parcel.head, parcel.arrival, attempt)
        parcel.client.close()
    parcel = taken(exchange)
    assert (parcel.head, parcel.attempt) == (MEGABYTE, 3)
    parcel.client.close()


def test_no_descriptor_is_left_behind(connection: socket.socket) -> None:
    before = count_descriptors()
    with closing(Exchange.create(4)) as exchange:
        for received in (b"", REQUEST, MEGABYTE) * 50:
            assert put(exchange, connection, received, 1.0, 0)
            taken(exchange).client.close()
        foreign(exchange, b"garbage", 0, 1)
        assert exchange.take() is None
    assert count_descriptors() == before


# what is no parcel


def in_a_memfd(content: bytes) -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, content)
    return descriptor


GARBAGE = {
    "nothing but a descriptor": (b"", 1),
    "a short message": (b"OB", 1),
    "another magic": (header(b"GET "), 1),
    "no descriptor": (header(), 0),
    "fewer bytes than it says": (header(size=5) + b"1234", 1),
    "more bytes than it says": (header(size=3) + b"1234", 1),
    "a size that nothing has": (header(size=2**64 - 1), 2),
    "a message that is too long": (header(size=1 << 20) + b"x" * (1 << 20), 1),
    "too many descriptors": (header(), 8),
}


@pytest.mark.parametrize(("message", "descriptors"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_skipped_and_logged_once(
    exchange: Exchange,
    connection: socket.socket,
    caplog: pytest.LogCaptureFixture,
    message: bytes,
    descriptors: int,
) -> None:
    foreign(exchange, message, *[connection.fileno()] * descriptors)
    assert put(exchange, connection, REQUEST, 1.0, 0)
    before = count_descriptors()
    assert exchange.oldest() in (0.0, 1.0)
    with taken(exchange).client:
        assert len(caplog.records) == 1
        assert count_descriptors() == before + 1
    assert exchange.take() is None


def test_a_nudge_wakes_who_watches_and_is_nothing_to_take(
    exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    exchange.nudge()
    assert select.select([exchange.fileno()], [], [], 0)[0]
    assert exchange.take() is None
    assert not select.select([exchange.fileno()], [], [], 0)[0]
    assert not caplog.records


def test_a_descriptor_that_is_no_socket_is_skipped(
    exchange: Exchange, connection: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    memfd = in_a_memfd(b"12345")
    reading, writing = os.pipe()
    foreign(exchange, header(), reading)
    foreign(exchange, header(size=5), connection.fileno(), writing)
    foreign(exchange, header(size=6), connection.fileno(), memfd)
    foreign(exchange, header(size=5), reading, memfd)
    for descriptor in (memfd, reading, writing):
        os.close(descriptor)
    before = count_descriptors()
    assert exchange.take() is None
    assert len(caplog.records) == 4
    assert count_descriptors() == before


def test_what_take_would_skip_is_older_than_anything(exchange: Exchange) -> None:
    foreign(exchange, b"garbage")
    assert exchange.oldest() == 0.0


# no room


def fill(exchange: Exchange, connection: socket.socket, received: bytes) -> int:
    count = 0
    while put(exchange, connection, received, float(count), 0):
        count += 1
        assert count < 100_000
    return count


def limited(size: int) -> Exchange:
    """Return an exchange with a send buffer as the system grants it without privileges."""
    exchange = Exchange.create(4)
    with socket.socket(fileno=os.dup(exchange.descriptors[1])) as writer:
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    again = Exchange(*map(os.dup, exchange.descriptors))
    exchange.close()
    return again


@pytest.mark.parametrize("received", [REQUEST, MEGABYTE[:16384]], ids=["inline", "spool"])
def test_a_full_queue_takes_no_more_until_something_is_taken(
    connection: socket.socket, received: bytes
) -> None:
    with closing(limited(100_000)) as exchange:
        count = fill(exchange, connection, received)
        before = count_descriptors()
        assert not put(exchange, connection, received, 0.0, 0)
        assert count_descriptors() == before
        for arrival in range(2):
            parcel = taken(exchange)
            assert parcel.arrival == arrival
            parcel.client.close()
        assert put(exchange, connection, received, 0.0, 0)
        for _ in range(count - 1):
            taken(exchange).client.close()
        assert exchange.take() is None


def test_the_usual_buffer_holds_hundreds_of_requests_of_any_size(connection: socket.socket) -> None:
    with closing(limited(212_992)) as exchange:  # net.core.wmem_max as most systems have it
        for received in (b"", REQUEST, MEGABYTE[:1000], MEGABYTE[:20_000]):
            count = fill(exchange, connection, received)
            assert count > 300
            for _ in range(count):
                taken(exchange).client.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gets more than net.core.wmem_max")
def test_root_gets_a_larger_buffer(exchange: Exchange) -> None:
    with socket.socket(fileno=os.dup(exchange.descriptors[1])) as writer:
        granted = writer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert granted == 2 * SEND_BUFFER_BYTES


def test_nothing_is_taken_by_a_process_without_free_descriptors() -> None:
    code = """
import errno, resource
ours, theirs = socket.socketpair()
theirs.setblocking(False)
for received in (b"inline", b"spool" * 10000):
    assert put(theirs, received, 1.0, 0)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
filling = []
try:
    while True:
        filling.append(os.dup(0))
except OSError:
    pass
for free in range(2):
    try:
        exchange.take()
    except OSError as error:
        assert error.errno == errno.EMFILE
    else:
        raise AssertionError(free)
    os.close(filling.pop())
first = exchange.take()
assert first.head == b"inline"
first.client.close()
assert exchange.take().head == b"spool" * 10000
"""
    run(code)


def test_too_many_connections_on_their_way_are_no_error() -> None:
    code = """
import resource
if os.geteuid() == 0:
    os.setuid(64123)  # somebody who has nothing else on its way
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
ours, theirs = socket.socketpair()
theirs.setblocking(False)
count = 0
while put(theirs, b"", 1.0, 0):
    count += 1
    assert count < 200
assert count >= 64, count
exchange.take().client.close()
exchange.take().client.close()
assert put(theirs, b"", 1.0, 0)
"""
    run(code)


def test_a_closed_connection_cannot_be_put(exchange: Exchange, connection: socket.socket) -> None:
    connection.close()
    with pytest.raises(OSError) as caught:  # noqa: PT011 errno is looked at
        put(exchange, connection, REQUEST, 1.0, 0)
    assert caught.value.errno == errno.EBADF


# the places


def reserve_all(exchange: Exchange) -> int:
    count = 0
    while exchange.reserve():
        count += 1
    return count


@pytest.mark.parametrize("places", [0, 1, 4000])
def test_there_are_so_many_places(places: int) -> None:
    with closing(Exchange.create(places)) as exchange:
        assert reserve_all(exchange) == places
        exchange.release()
        assert reserve_all(exchange) == 1


def test_places_are_added_and_taken_away(exchange: Exchange) -> None:
    exchange.resize(6)
    exchange.resize(6)
    assert reserve_all(exchange) == 6
    exchange.resize(3)
    for _ in range(2):
        exchange.release()
    exchange.resize(3)
    assert not exchange.reserve()
    for _ in range(4):
        exchange.release()
    exchange.resize(3)
    assert reserve_all(exchange) == 3


def test_whoever_made_it_sees_how_many_places_are_taken(exchange: Exchange) -> None:
    assert exchange.taken() == 0
    reserve_all(exchange)
    exchange.release()
    assert exchange.taken() == 3
    exchange.resize(300)
    assert exchange.taken() == 3


def test_what_was_given_back_twice_is_no_more_places(exchange: Exchange) -> None:
    places = reserve_all(exchange)
    for _ in range(places + 2):
        exchange.release()
    assert exchange.taken() == 0
    assert reserve_all(exchange) == places


def test_no_place_is_taken_twice_by_many_processes() -> None:
    code = """
def greedy():
    for _ in range(3000):
        if exchange.reserve():
            exchange.release()
    count = 0
    while exchange.reserve():
        count += 1
    os.write(writing, struct.pack("I", count))

reading, writing = os.pipe()
wait(*[child(greedy) for _ in range(4)])
print(sum(struct.unpack("4I", os.read(reading, 16))))
"""
    assert run(code) == "100"


# many processes


def test_ten_thousand_parcels_go_through_four_processes() -> None:
    code = """
COUNT = 10_000
seen = mmap.mmap(-1, COUNT)
ended = mmap.mmap(-1, 1)

def put_all(first):
    for number in range(first, COUNT, 2):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.send(struct.pack("I", number))
        head, body = b"%d " % number, b"%d " % number * (20_000 if number % 97 == 0 else 1)
        poll(lambda: put(theirs, head, float(number), number % 2, body))
        ours.close()
        theirs.close()

def take():
    last = {0: -1, 1: -1}
    while (parcel := exchange.take()) or not ended[0]:
        if parcel is None:
            time.sleep(0.0005)
            continue
        number = int(parcel.arrival)
        assert parcel.head == b"%d " % number
        body = parcel.body if isinstance(parcel.body, bytes) else parcel.body.read()
        assert body == parcel.head * (20_000 if number % 97 == 0 else 1)
        assert struct.unpack("I", parcel.client.recv(4)) == (number,)
        parcel.client.close()
        assert number > last[parcel.attempt], "out of order"
        last[parcel.attempt] = number
        seen[number] += 1
    assert max(last.values()) > 0, "it took nothing"

takers = [child(take) for _ in range(2)]
wait(child(lambda: put_all(0)), child(lambda: put_all(1)))
ended[0] = 1
wait(*takers)
assert exchange.take() is None
print(seen[:].count(1))
"""
    assert run(code) == "10000"


def test_the_death_of_a_process_takes_nothing_from_the_others() -> None:
    code = """
ours, theirs = socket.socketpair()
theirs.setblocking(False)
for number in range(10):
    assert put(theirs, b"%d" % number * 50_000, float(number), 0)

def take_some():
    for _ in range(3):
        exchange.take()
    os.write(writing, b".")
    time.sleep(60)

reading, writing = os.pipe()
pid = child(take_some)
os.read(reading, 1)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
arrivals = [int(parcel.arrival) for parcel in iter(exchange.take, None)]
print(*arrivals)
"""
    assert run(code) == "3 4 5 6 7 8 9"


def test_it_passes_through_an_exec(exchange: Exchange, connection: socket.socket) -> None:
    assert put(exchange, connection, REQUEST, 1.0, 0)
    numbers = ", ".join(map(str, exchange.descriptors))
    code = f"""
from obworker.http.exchange import Exchange, Parcel
exchange = Exchange({numbers})
parcel = exchange.take()
assert exchange.put(Parcel(parcel.client, parcel.head, b"!", 2.0, 1))
assert exchange.reserve()
"""
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        pass_fds=exchange.descriptors,
        timeout=60,
        check=True,
    )
    parcel = taken(exchange)
    assert (parcel.head, parcel.body, parcel.attempt) == (REQUEST, b"!", 1)
    parcel.client.close()
    assert reserve_all(exchange) == 3


def test_whoever_polls_learns_of_a_parcel() -> None:
    code = """
import select
def take_one():
    epoll = select.epoll()
    epoll.register(exchange.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
    os.write(writing, b".")
    while exchange.take() is None:
        assert epoll.poll(30)
    os.write(writing, b"!")

reading, writing = os.pipe()
pids = [child(take_one) for _ in range(3)]
for _ in pids:
    assert os.read(reading, 1) == b"."
ours, theirs = socket.socketpair()
theirs.setblocking(False)
for left in pids:
    assert put(theirs, b"request", time.monotonic(), 0)
    assert os.read(reading, 1) == b"!"
wait(*pids)
"""
    run(code)


def test_a_head_for_which_there_is_no_memory_stays_with_its_body() -> None:
    """A part of it was sent, which is no request: the client's connection was dropped."""
    code = """
import resource
from obworker.http.spool import Spools
ours, theirs = socket.socketpair()
theirs.setblocking(False)
for most in (65536, 65538):  # of the head nothing can be written, and a part
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    spool = exchange.spools.open()
    spool.write(b"x" * 65536)
    assert not exchange.put(Parcel(theirs, b"head", spool, 1.0, 0))
    assert exchange.take() is None
    assert spool.read() == b"x" * 65536
"""
    run(code)


def test_a_request_whose_descriptors_were_lost_gives_its_place_back(exchange: Exchange) -> None:
    """The kernel installs none where another thread took the last one (cmsg(3), MSG_CTRUNC)."""
    free = reserve_all(exchange)
    foreign(exchange, HEADER.pack(MAGIC, 0, 1.0, len(REQUEST), 0) + REQUEST)
    foreign(exchange, HEADER.pack(MAGIC, 0, 1.0, 0, 0))
    foreign(exchange, HEADER.pack(b"none", 0, 1.0, 1, 0))
    assert exchange.take() is None
    assert (free, reserve_all(exchange)) == (4, 1)
