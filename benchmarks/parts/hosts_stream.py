"""Tardigrad's stream alone between two hosts, with TLS or without: slot to slot, nothing computed, no bridge."""

from __future__ import annotations

import threading

import torch
from hosts_process import GRADIENT, Told, counted, mark, require_mark, serve, told

from tardigrad.transports.credentials import Credentials
from tardigrad.transports.meeting import Listener, dial
from tardigrad.transports.slots import Slot, SlotLayout
from tardigrad.transports.stream import Channel, Piece

PATIENCE = 600.0  # seconds: between two turns nobody receives, and so nobody beats


def answer(given: Told, credentials: Credentials, slot: Slot) -> None:
    """As the server: until the worker is gone."""
    gone = threading.Event()

    def met(channel: Channel) -> None:
        channel.place("up", slot.memory)
        number = 0
        try:
            while True:
                channel.receive()
                number += 1
                require_mark(slot.flat, number)
                mark(slot.flat, -number)
                channel.send("pulled", {"version": number}, [Piece("down", slot.memory)])
        except (EOFError, OSError):
            gone.set()

    listener = Listener(given.address, credentials, met=met, patience=PATIENCE)
    gone.wait()
    listener.close()


def exchange(given: Told, credentials: Credentials, slot: Slot) -> None:
    """As the worker."""
    channel = patient_dial(given.address, credentials)
    channel.place("down", slot.memory)
    count = 0

    def turn(times: int) -> dict[str, list[float]]:
        nonlocal count
        seconds: list[float] = []
        for _ in range(times):
            count += 1
            slot.flat.fill_(GRADIENT)
            mark(slot.flat, count)
            with counted(seconds):
                channel.send("pushed", {"loss": 0.5, "norm": 1.0}, [Piece("up", slot.memory)])
                channel.receive()
            require_mark(slot.flat, -count)
        return {"exchange": seconds}

    serve(turn)
    channel.close()


def patient_dial(address: str, credentials: Credentials) -> Channel:
    """The server may not listen yet."""
    waiting = threading.Event()
    for _ in range(300):
        try:
            return dial(address, credentials, timeout=30.0, patience=PATIENCE)
        except ConnectionRefusedError:
            waiting.wait(0.1)
    raise ConnectionRefusedError(address)


def main() -> None:
    given = told()
    torch.set_num_threads(1)
    credentials = Credentials(given.secret, given.trusted)
    slot = Slot.make(SlotLayout.holding(torch.float32, given.parameters, {}), "slot")
    (answer if given.is_server else exchange)(given, credentials, slot)


if __name__ == "__main__":
    main()
