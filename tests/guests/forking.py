"""Runs commands, each in a fork of this process, which has imported PyTorch and timm once.

A line of standard input is the words of a command, as JSON; one of standard output is its exit
code.  What a command says goes to standard error.
"""

import json
import os
import signal
import sys

import timm  # noqa: F401 - with PyTorch; takes longer than most of what commands do with them

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        signal.alarm(300)
        os.dup2(2, 1)
        from destseg.cli.main import main

        sys.exit(main(json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
