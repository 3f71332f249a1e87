"""Messages between master, mold and workers, and the channel that carries them."""

from __future__ import annotations

import os
import socket

import pytest

from obworker.supervisor.messages import (
    MAX_MESSAGE_BYTES,
    Channel,
    Drain,
    Failed,
    Leaving,
    Load,
    Loaded,
    Message,
    Ready,
    Recycle,
    Serve,
    Spawn,
    Spawned,
    decode,
    encode,
    shorten,
)

MESSAGES: list[Message] = [
    Load(
        3, "module:function", {"path": "/m", "n": None}, {"timeout": 1.5}, "./model", ["0f", "1a"]
    ),
    Loaded(
        0.25,
        [["predictor", "Predictor()"], ["onnx", "a.onnx"]],
        {"health": "Predictor has no health()"},
        "json",
        ["a thread"],
        "f00",
    ),
    Failed("message", "hint", 4, "trace\nback", was_loaded=False),
    Failed("message", None, 4, "", was_loaded=False),
    Spawn(2, 1, {"CUDA_VISIBLE_DEVICES": ""}, {"openmp": 4}, [0, 2], "worker 2"),
    Spawned(123),
    Ready(),
    Serve(),
    Failed("数字 \udcff", None, 3, "…", was_loaded=True),
    Recycle("has served 7 requests"),
    Leaving("run() failed"),
    Drain(empty_queue=True, final=True),
]


def name(message: object) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message
    ours, theirs = Channel.pair()
    assert ours.send(message)
    assert theirs.receive() == (message, None)
    ours.close()
    theirs.close()


def test_every_kind_of_message_is_tried_here() -> None:
    assert {type(message) for message in MESSAGES} == set(Message.__args__)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"nonsense",
        b"\xff",
        b"{}",
        b"[]",
        b"null",
        b'["Ready"]',
        b'["Ready", {}, 1]',
        b'["Unheard", {}]',
        b'["Spawned", {}]',
        b'["Spawned", {"pid": 1, "more": 2}]',
        b'["Spawned", 1]',
        b'[["Ready"], {}]',
    ],
)
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        decode(packet)


def test_messages_keep_their_order_and_their_borders() -> None:
    ours, theirs = Channel.pair()
    for number in range(10):
        ours.send(Spawned(number))
    assert [theirs.receive()[0] for _ in range(10)] == [Spawned(number) for number in range(10)]
    ours.close()
    theirs.close()


def test_the_end_of_the_other_side_comes_after_its_last_message() -> None:
    ours, theirs = Channel.pair()
    ours.send(Ready())
    ours.close()
    assert theirs.receive() == (Ready(), None)
    assert theirs.receive() == (None, None)
    assert not theirs.send(Drain(empty_queue=False, final=False))
    theirs.close()


def test_an_end_with_unread_messages_on_the_other_side_is_an_end() -> None:
    ours, theirs = Channel.pair()
    theirs.send(Drain(empty_queue=False, final=False))
    ours.close()
    assert theirs.receive() == (None, None)
    theirs.close()


def test_a_channel_carries_the_end_of_another() -> None:
    ours, theirs = Channel.pair()
    near, far = Channel.pair()
    order = Spawn(0, 0, {}, {}, [], "worker 0")
    ours.send(order, end=far)
    far.close()
    message, end = theirs.receive()
    assert message == order
    assert end is not None
    assert not os.get_inheritable(end.fileno())
    end.send(Ready())
    assert near.receive() == (Ready(), None)
    for channel in (ours, theirs, near, end):
        channel.close()


def test_a_channel_that_must_not_wait_says_that_nothing_has_come() -> None:
    ours, theirs = Channel.pair()
    ours.set_blocking(False)
    with pytest.raises(BlockingIOError):
        ours.receive()
    ours.close()
    theirs.close()


def test_descriptors_do_not_pass_an_exec_unless_told_to() -> None:
    ours, theirs = Channel.pair()
    assert not os.get_inheritable(ours.fileno())
    theirs.set_inheritable(True)
    assert os.get_inheritable(theirs.fileno())
    ours.close()
    theirs.close()


def test_a_text_keeps_its_end_where_it_is_too_long() -> None:
    assert shorten("short") == "short"
    long = shorten("beginning" + "x" * 100_000 + "end")
    assert long.startswith("[…]\n")
    assert long.endswith("end")
    assert len(long) < 33_000


@pytest.mark.parametrize("letter", ["x", "\n", "数", "\udcff", "\x00", "😀"])
def test_a_failure_fits_a_packet_whatever_its_texts_are_made_of(letter: str) -> None:
    text = shorten(letter * 1_000_000)
    packet = encode(Failed(shorten(letter * 1_000_000), None, 3, text, was_loaded=True))
    ours, theirs = Channel.pair()
    assert len(packet) <= MAX_MESSAGE_BYTES
    assert ours.send(decode(packet))
    assert theirs.receive()[0] == decode(packet)
    ours.close()
    theirs.close()


def test_a_channel_is_a_seqpacket_socket() -> None:
    ours, theirs = Channel.pair()
    with socket.socket(fileno=os.dup(ours.fileno())) as same:
        assert same.type == socket.SOCK_SEQPACKET
    ours.close()
    theirs.close()


def test_after_its_last_words_the_other_side_knows_that_nobody_listens() -> None:
    ours, theirs = Channel.pair()
    ours.set_blocking(False)
    theirs.send(Spawned(1))
    assert ours.last_words() == [Spawned(1)]
    assert not theirs.send(Spawned(2))
    assert ours.last_words() == []
    theirs.close()
    assert ours.last_words() == []
    ours.close()
    assert ours.last_words() == []
