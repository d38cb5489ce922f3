"""Doing something at a step of a training."""

import os


def at_call(monkeypatch, phase, number, action):
    """Do something before the forward pass of a phase's step number ``number`` (from 1)."""
    forward, calls = phase.forward, []

    def counted(self, *batch):
        calls.append(None)
        if len(calls) == number:
            action()
        return forward(self, *batch)

    monkeypatch.setattr(phase, "forward", counted)
    return calls


def send(number):
    return lambda: os.kill(os.getpid(), number)
