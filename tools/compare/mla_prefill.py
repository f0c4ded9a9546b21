#!/usr/bin/env python3
"""Prefill attention beside PyTorch's scaled_dot_product_attention on cuDNN, in one run on one card.

    mla_prefill.py gpu_bench [--json FILE]

`gpu_bench` is this project's program: its MlaPrefillBench gives the cases and our times, of attention
behind the expansion (whose keys and values the peer is given, rope copied to every head), one launch at a
time and then several in a row, as which the card lowers its clock for power; the peer is called as often,
both by CUDA graphs.
It runs before and after ours, and its better time counts. cuDNN takes no causal mask behind a prefix: such
cases are held against our own rate without one. Needs PyTorch with CUDA; the product does not.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time

LINE = re.compile(r"mla_prefill heads +(\d+) batch (\d+) queries +(\d+) kv +(\d+): +[\d.]+ us, gather +[\d.]+, attention +([\d.]+) us.*?, (\d+) a replay")
SCALE = 0.13523


def our_times(program, test):
    """(heads, batch, queries, kv): (us, launches in a row), in the program's order."""
    done = subprocess.run([program, f"--gtest_filter=MlaPrefillBench.{test}"], capture_output=True, text=True, check=False)
    found = filter(None, map(LINE.match, done.stdout.splitlines()))
    times = {tuple(map(int, m.groups()[:4])): (float(m.group(5)), int(m.group(6))) for m in found}
    if done.returncode != 0 or not times:
        sys.exit(f"mla_prefill: {program} gave no times:\n{done.stdout[-500:]}{done.stderr[-500:]}")
    return times


def peer_us(torch, case, calls, repeats=7):
    """Of cuDNN through PyTorch, `calls` behind each other in a graph, the median; None where it does not take the case."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    heads, batch, queries, kv_len = case
    if queries != kv_len:
        return None

    def rows(width):
        # [batch, tokens, heads, width] in memory, as a model's projections leave them.
        return torch.randn(batch, kv_len, heads, width, device="cuda", dtype=torch.bfloat16).transpose(1, 2)

    q, k, v = rows(192), rows(192), rows(128)
    times = []
    torch.cuda.synchronize()
    time.sleep(0.2)  # as the card has between our cases
    graph = torch.cuda.CUDAGraph()
    try:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=SCALE)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                for _ in range(calls):
                    torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=SCALE)
        for i in range(repeats + 2):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            if i >= 2:
                times.append(begin.elapsed_time(end) * 1e3 / calls)
    except RuntimeError as error:
        print(f"cuDNN refuses {case}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return statistics.median(times)


def tflops(case, us):
    heads, batch, queries, kv_len = case
    return batch * queries * (kv_len - (queries - 1) / 2) * heads * 640 / us * 1e-6


def compare(torch, program, test):
    """Prints and returns a row for each case of the program's test."""
    cases = our_times(program, test)  # a first run warms the card
    before = {case: peer_us(torch, case, calls) for case, (_, calls) in cases.items()}
    torch.cuda.empty_cache()
    ours = {case: us for case, (us, _) in our_times(program, test).items()}
    after = {case: peer_us(torch, case, calls) for case, (_, calls) in cases.items()}
    rows = []
    for case, (_, calls) in cases.items():
        found = [times[case] for times in (before, after) if times[case]]
        row = dict(zip(("heads", "batch", "queries", "kv"), case), in_a_row=calls, us=ours[case])
        row["tflops"] = round(tflops(case, ours[case]))
        alone = (case[0], case[1], case[2], case[2])
        text = ""
        if found:
            row.update(peer_us=round(min(found), 1), peer_tflops=round(tflops(case, min(found))))
            text = f"cuDNN {row['peer_us']:9.1f} us {row['peer_tflops']:4} TFLOPS, {row['peer_us'] / row['us']:.2f}"
        elif alone in ours:
            row["of_rate_without_prefix"] = round(tflops(case, ours[case]) / tflops(alone, ours[alone]), 2)
            text = f"{row['of_rate_without_prefix']:.0%} of the rate without a prefix"
        print(f"{case[0]:4} heads {case[1]} x {case[2]:5} of {case[3]:5}, {calls:2} in a row: {row['us']:9.1f} us "
              f"{row['tflops']:4} TFLOPS  {text}")
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gpu_bench")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    import torch

    card = torch.cuda.get_device_name()
    print(f"{card}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    rows = [row for test in ("R1", "R1InARow") for row in compare(torch, arguments.gpu_bench, test)]
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"gpu": card, "peer": f"scaled_dot_product_attention, cuDNN {torch.backends.cudnn.version()}, "
                       f"PyTorch {torch.__version__}", "cases": rows}, file, indent=0)


if __name__ == "__main__":
    main()
