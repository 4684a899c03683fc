"""Peak memory and time per picture of each backbone: the table in docs/train.md.

    python -m benchmarks.backbones [NAME ...]

Each figure is a process of its own: an encoder with `density` readouts and random weights at
480 x 640 (or the nearest size it takes) answers one picture, or takes one training step on one
picture, as it is and with --recompute.  Seconds are of the second time, on a CPU those that its
cores worked (with one thread, wall time on an idle machine).  Memory is the process's peak less
what it held before the encoder was made; on a GPU the allocator's peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from emlnet.backbones import BACKBONES, find_backbone
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.finetune import Finetune, prepare

MODES = ("predict", "train", "recompute")
SIZE = (480, 640)


def peak(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, mode: str, device: torch.device) -> dict[str, float]:
    """One figure: seconds of a picture, the second time, and 10^9 bytes."""
    size = find_backbone(name).nearest_size(SIZE)
    with torch.device("meta"):
        find_backbone(name).build()  # Imports at first use do not count.
    before = peak(device) if device.type == "cpu" else 0
    config = EncoderConfig(backbone=name, weights="none", size=size)
    finetune = Finetune(recompute=mode == "recompute", eval_batchnorm=mode == "recompute")
    encoder = prepare(Encoder(config), finetune).train(mode != "predict").to(device)
    optimizer = torch.optim.AdamW(encoder.parameters(), fused=True)
    image = torch.rand(1, 3, *SIZE, device=device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for _ in range(2):
        began = clock()
        with torch.set_grad_enabled(mode != "predict"):
            output = encoder(image)
        if mode != "predict":
            optimizer.zero_grad(set_to_none=True)
            output.amax().backward()
            optimizer.step()
        output.detach().sum().item()
        seconds = clock() - began
    return {"seconds": seconds, "GB": (peak(device) - before) / 1e9}


def main() -> None:
    """Measure all, each in a process of its own, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=[n for n in BACKBONES if n != "tiny"])
    parser.add_argument("--mode", choices=MODES, help="one figure, as JSON")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if given.mode:
        print(json.dumps(measure(given.names[0], given.mode, device)))
        return
    print("| backbone | " + " | ".join(f"{m}: s | GB" for m in MODES) + " |")
    print("|---" * (2 * len(MODES) + 1) + "|")
    for name in given.names:
        cells = []
        for mode in MODES:
            words = [sys.executable, "-m", "benchmarks.backbones", name, "--mode", mode]
            answer = subprocess.run(words, capture_output=True, text=True)
            if answer.returncode:
                print(answer.stderr[-500:], file=sys.stderr)
                cells.append("- | -")
                continue
            figures = json.loads(answer.stdout.splitlines()[-1])
            cells.append(f"{figures['seconds']:.2f} | {figures['GB']:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
