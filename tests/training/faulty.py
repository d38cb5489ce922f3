"""``destseg`` with a fault in one of several processes: FAULT, then the command's words."""

import errno
import os
import signal
import sys
import time

from destseg.cli.main import main
from destseg.errors import DataError
from destseg.training import finish as finish_module
from destseg.training import learn as learn_module
from destseg.training.good_parts import GoodParts
from destseg.training.phases import SegmentPhase

RANK = os.environ["RANK"]


def refuse(*_args, **_keywords):
    raise DataError("bad.png: expected an image, got words")


def fill_disk(*_args, **_keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def at_step(number, action):
    forward, calls = SegmentPhase.forward, []

    def counted(self, *batch):
        calls.append(None)
        loss = forward(self, *batch)
        return action(loss) if number in (len(calls), None) else loss

    SegmentPhase.forward = counted


def kill(_loss):
    os.kill(os.getpid(), signal.SIGKILL)


def slowly(loss):
    time.sleep(1)
    return loss


def break_it(fault):
    if fault == "image" and RANK == "1":
        GoodParts.read = refuse
    if fault == "state" and RANK == "0":
        learn_module.save_checkpoint = fill_disk
    if fault == "bundle" and RANK == "0":
        finish_module.save_bundle = fill_disk
    if fault == "nan" and RANK == "1":
        at_step(2, lambda loss: loss * float("nan"))
    if fault == "killed" and RANK == "1":
        at_step(2, kill)
    if fault == "slow":
        at_step(None, slowly)


if __name__ == "__main__":
    break_it(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
