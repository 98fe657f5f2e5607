"""Gives each call of a client to the next of several nodes."""

import itertools
import os

import grpc
from macp.v1 import core_pb2_grpc

CHANNELS = {}
# Whom to trust; None: no TLS.
ROOTS = None
if "SHOW_ROOTS" in os.environ:
    with open(os.environ["SHOW_ROOTS"], "rb") as pem:
        ROOTS = pem.read()
# One turn for all clients: what one of them did, another looks at on another node.
TURN = itertools.count()


class Spread:
    """In place of a stub: its calls take turns over the nodes."""

    def __init__(self, addresses):
        self._stubs = [at(address) for address in addresses]

    def __getattr__(self, name):
        return getattr(self._stubs[next(TURN) % len(self._stubs)], name)


def at(address):
    """The stub of one node."""
    if address not in CHANNELS:
        if ROOTS is None:
            CHANNELS[address] = grpc.insecure_channel(address)
        else:
            CHANNELS[address] = grpc.secure_channel(address, grpc.ssl_channel_credentials(ROOTS))
    return core_pb2_grpc.MACPRuntimeServiceStub(CHANNELS[address])
