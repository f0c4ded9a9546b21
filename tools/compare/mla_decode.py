#!/usr/bin/env python3
"""Decode attention beside FlashMLA's BF16 kernel, on the same cases.

    mla_decode.py cases > cases.txt               lines "batch queries kv_len heads", as the bench takes them
    MLA_CASES=cases.txt gpu_bench --gtest_filter='MlaDecodeBench.*' > ours.txt
    (the peer's program, which is not part of this project) cases.txt > peer.txt
    mla_decode.py table ours.txt peer.txt [--json FILE]

A line of the peer's file: the case and one or more times in us, of which the least counts.

Both must be timed alike: graphs of as many launches as there are layers, 4 to 32, two replays before the nine whose median
counts, and a rest before each case. Twenty launches instead of four take up to 11 % longer each, at the GPU's power limit.
"""

import argparse
import json
import math
import re
import sys

CASES = [
    (batch, queries, kv_len, heads)
    for heads in (128, 16)
    for batch, queries, kv_len in (
        (1, 1, 4096), (1, 1, 8192), (1, 2, 4096), (1, 1, 65536), (16, 1, 4096), (16, 2, 4096), (16, 4, 4096),
        (64, 1, 4096), (64, 2, 4096), (64, 1, 8192), (128, 1, 4096), (128, 2, 4096), (128, 1, 8192), (128, 2, 8192),
    )
] + [(128, 1, 4096, heads) for heads in (32, 64)] + [
    (batch, queries, -32768, heads) for batch, queries, heads in ((64, 1, 128), (128, 1, 128), (128, 2, 128), (64, 1, 16), (128, 1, 16))
]
LINE = re.compile(r"mla_decode (\w+) batch +(\d+) queries (\d+) kv +(-?\d+) heads +(\d+): +([\d.]+) us.*\((\d+) keys")
# Bytes of a token; a step also reads its queries and writes its outputs.
TOKEN_BYTES = {"bf16": 1152, "e4m3": 576, "group": 656}


def read_ours(path):
    """Times and numbers of keys by format and case, and the card."""
    times, card = {}, "unknown"
    for line in open(path):
        found = LINE.match(line)
        if found:
            case = tuple(map(int, found.groups()[1:5]))
            times.setdefault(found.group(1), {})[case] = (float(found.group(6)), int(found.group(7)))
        elif " SMs" in line:
            card = line.split(",")[0].strip()
    return times, card


def read_peer(path):
    times = {}
    for line in open(path):
        fields = line.split()
        if len(fields) >= 5 and fields[0].isdigit():
            times[tuple(map(int, fields[:4]))] = min(map(float, fields[4:]))
    return times


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def table(ours, card, peer, json_path):
    rows = []
    for name, times in ours.items():
        for case, (us, keys) in times.items():
            if case not in peer:
                sys.exit(f"mla_decode: the peer's file has no case {case}")
            batch, queries, kv_len, heads = case
            kv_bytes = keys * TOKEN_BYTES[name]
            flops = 2 * queries * heads * keys * (576 + 512)
            rows.append(dict(format=name, batch=batch, queries=queries, kv=kv_len, heads=heads, us=us,
                             peer_us=peer[case], kv_tbs=round(kv_bytes / us * 1e-6, 2),
                             tflops=round(flops / us * 1e-6)))
    for r in rows:
        print(f"{r['format']:5} {r['batch']:4} x {r['queries']} x {r['kv']:6} x {r['heads']:3}  {r['us']:8.1f} us  "
              f"{r['peer_us']:8.1f} us  {r['peer_us'] / r['us']:5.2f}  {r['kv_tbs']:5.2f} TB/s  {r['tflops']:5} TFLOPS")
    for name in ours:
        ratios = [r["peer_us"] / r["us"] for r in rows if r["format"] == name]
        print(f"{name} on {card}: geometric mean {geometric_mean(ratios):.3f} of the peer's BF16 speed over "
              f"{len(ratios)} cases, worst {min(ratios):.2f}, {sum(r < 0.97 for r in ratios)} under 0.97")
    if json_path:
        with open(json_path, "w") as file:
            json.dump({"gpu": card, "peer": "FlashMLA dense decode, BF16", "cases": rows}, file, indent=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cases")
    of = commands.add_parser("table")
    of.add_argument("ours")
    of.add_argument("peer")
    of.add_argument("--json")
    arguments = parser.parse_args()
    if arguments.command == "cases":
        for case in CASES:
            print(*case)
    else:
        ours, card = read_ours(arguments.ours)
        if not ours:
            sys.exit(f"mla_decode: no times in {arguments.ours}")
        table(ours, card, read_peer(arguments.peer), arguments.json)


if __name__ == "__main__":
    main()
