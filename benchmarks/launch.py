"""From a command to the first step of a trivial job of two workers: Ray's share of it, and ours.

    python benchmarks/launch.py [--repeats 5]

Ray's share is what a script needs that does nothing but start Ray and Ray Train's `TorchTrainer` with a
step of the same network. Both run as whole processes, in turn, from their start to the moment at which
the file appears that the first step leaves.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from timing import machine
from training_loop import installed

WORKERS = 2
POLL_SECONDS = 0.01
PIPELINE = "method: {name: loop, width: 16, beside: false, descent: {steps: 200, batch: 32}}\n"
BARE = """
import os, sys
os.environ.update({switches!r})
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

def loop(config):
    import torch
    import torch.distributed as dist
    from ray import train
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(200):
        loss = model(torch.rand(16, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
        optimizer.step()
        if step == 0 and train.get_context().get_world_rank() == 0:
            open(config["first"], "w").close()

quiet = dict(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.init(address="local", num_cpus={cpus}, **quiet)
TorchTrainer(
    loop, train_loop_config={{"first": sys.argv[1]}}, scaling_config=ScalingConfig(num_workers={workers}),
    run_config=RunConfig(name="bare", storage_path=sys.argv[2]),
).fit()
"""


def main() -> None:
    from dlde.ray_session import SWITCHES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(machine(1), "\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        installed(folder)
        (folder / "loop.yaml").write_text(PIPELINE)
        script = folder / "bare.py"
        script.write_text(BARE.format(switches=SWITCHES, cpus=WORKERS + 1, workers=WORKERS))
        seconds: dict[str, list[float]] = {"bare": [], "dlde": []}
        for number in range(options.repeats + 1):
            place = folder / str(number)
            place.mkdir()
            first = place / "first"
            command = [sys.executable, str(script), str(first), str(place)]
            bare = until(command, lambda first=first: first.exists(), place)
            command = [
                sys.executable,
                "-m",
                "dlde",
                "train",
                str(folder / "loop.yaml"),
                "--workers",
                str(WORKERS),
            ]
            ours = until(command, lambda place=place: has_row(place), place)
            if number:  # the first round warms the caches
                seconds["bare"].append(bare)
                seconds["dlde"].append(ours)
    shares = [ours - bare for bare, ours in zip(seconds["bare"], seconds["dlde"], strict=True)]
    print("| from the command to the first step (s) | median | lowest | highest |\n|---|---|---|---|")
    for what, values in (("Ray alone", seconds["bare"]), ("dlde", seconds["dlde"]), ("ours", shares)):
        print(f"| {what} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


def until(command: list[str], done: Callable[[], bool], root: Path) -> float:
    """Seconds from the start of a process to the moment at which `done` holds; then waits for its end."""
    environment = {**os.environ, "DLDE_ROOT": str(root / "root")}
    began = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while not done():
            assert process.poll() is None, f"{command} ended with {process.returncode} before its first step"
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
    return seconds


def has_row(place: Path) -> bool:
    return any(path.stat().st_size for path in place.glob("root/runs/*/curves/fit.jsonl"))


if __name__ == "__main__":
    main()
