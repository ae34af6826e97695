"""A script's run in which gradients travel as bfloat16: its workers round, and so does its replay."""

import torch
import user_scripts as scripts

import tardigrad
from tardigrad.logs import read_events


def commits(place):
    return [event for event in read_events(place) if event[0] == "commit"]


def test_it_replays_and_differs_from_a_run_with_whole_gradients(tmp_path):
    same = {"workers": 1, "threads": 1, "args": (1,)}
    run = tardigrad.run(scripts.usual, directory=tmp_path / "rounded", wire="bfloat16", **same)
    assert run.config.wire == "bfloat16"
    assert tardigrad.replay(tmp_path / "rounded").equal
    tardigrad.run(scripts.usual, directory=tmp_path / "whole", **same)
    rounded, whole = commits(tmp_path / "rounded")[0][5][0], commits(tmp_path / "whole")[0][5][0]
    assert rounded[:6] == whole[:6]  # the same samples and the same loss
    assert rounded != whole  # another norm
    assert torch.isclose(torch.tensor(rounded[6]), torch.tensor(whole[6]), rtol=1e-2)
