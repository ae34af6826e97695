"""Imported by the forkserver when it starts: what every worker needs, loaded once."""

from __future__ import annotations

import json
import os
from contextlib import suppress

import torch

from tardigrad.arithmetic import Arithmetic
from tardigrad.blueprint import Blueprint
from tardigrad.engines.local import prebuilt
from tardigrad.engines.local import processes as processes  # for the processes that are forked
from tardigrad.engines.local.nursery import PRELOAD

if PRELOAD in os.environ:
    torch.set_num_threads(1)
    wanted = json.loads(os.environ.pop(PRELOAD))
    with suppress(Exception):  # whoever needs the task builds it again, and sees what is wrong
        prebuilt.build(
            Blueprint(wanted["task"], 0, Arithmetic(), imports=tuple(wanted["imports"]), data_dir=wanted["data_dir"])
        )
