"""Free ports: the usual one when it is free, another when it is taken."""

from __future__ import annotations

import socket

from deploy import ports


def test_a_free_preferred_port_is_taken() -> None:
    [free] = ports.choose([None])
    assert ports.choose([free]) == [free]


def test_a_taken_preferred_port_is_replaced_by_a_free_one() -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        taken = server.getsockname()[1]
        assert not ports.is_free(taken)
        [other] = ports.choose([taken])
        assert other != taken
        assert ports.is_free(other)


def test_ports_chosen_together_are_all_different() -> None:
    assert len(set(ports.choose([None] * 50))) == 50


def test_the_same_preferred_port_is_given_only_once() -> None:
    [free] = ports.choose([None])
    first, second = ports.choose([free, free])
    assert first == free
    assert second != free
