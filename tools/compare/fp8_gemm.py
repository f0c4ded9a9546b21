#!/usr/bin/env python3
"""FP8 block-scaled products beside a peer's, on the same cases.

    fp8_gemm.py cases > cases.txt                 lines "m n k", then the rows of each group
    GEMM_CASES=cases.txt gpu_bench --gtest_filter=Fp8GemmBench.Cases > ours.txt
    (the peer's program, which is not part of this project) cases.txt > peer.txt
    fp8_gemm.py table ours.txt peer.txt [--json FILE]

A line of the peer's file: groups, m, n, k and one or more times in us, of which the least counts.

Both must multiply the same: at its power limit a GPU takes up to a tenth longer over larger values, or without a
rest before a case. Ours are e4m3 of normal values of deviation 40 and scales of 0.01 exp(0.3 z); GEMM_REST_MS=30 rests.
"""

import argparse
import json
import math
import random
import sys

# Every linear of DeepSeek-R1.
DENSE = [(2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048), (36864, 7168)]
ROWS = [1, 8, 32, 64, 128, 1024, 4096]
ODD_ROWS = [3, 17, 63, 65, 100, 129, 257, 1000, 5000]
EXPERT = [(4096, 7168), (7168, 2048)]


def spread(rng, groups, mean):
    """Rows of each group, 30% to either side of the mean."""
    return [rng.randint(mean * 7 // 10, mean * 13 // 10) for _ in range(groups)]


def skewed(rng, groups, total, exponent):
    """Each row chooses its group by a Zipf law; many groups stay empty."""
    weights = [(i + 1) ** -exponent for i in range(groups)]
    rng.shuffle(weights)
    rows = [0] * groups
    for group in rng.choices(range(groups), weights, k=total):
        rows[group] += 1
    return rows


def cases():
    for n, k in DENSE:
        for m in ROWS + ODD_ROWS:
            yield n, k, m, []
    rng = random.Random(1)
    batches = [spread(rng, groups, mean) for groups in (64, 32, 16) for mean in (8, 32, 64, 128)]
    batches += [skewed(rng, groups, groups * mean, 1.0) for groups in (64, 32, 16) for mean in (2, 16, 64)]
    batches += [skewed(rng, 256, 512, 0.0), skewed(rng, 256, 16384, 0.0), skewed(rng, 256, 65536, 0.0)]
    batches += [spread(rng, 16, 512), spread(rng, 8, 2048), spread(rng, 32, 1024)]
    for rows in batches:
        for n, k in EXPERT:
            yield n, k, sum(rows), rows


def read_ours(path):
    times = []
    for line in open(path):
        fields = line.split()
        if len(fields) > 6 and fields[5] == "us":
            times.append((tuple(map(int, fields[:4])), float(fields[4]), fields[-1]))
    return times


def read_peer(path):
    times = []
    for line in open(path):
        fields = line.split()
        if len(fields) >= 5 and fields[0].isdigit():
            times.append((tuple(map(int, fields[:4])), min(map(float, fields[4:]))))
    return times


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def table(ours, peer, json_path):
    if [t[0] for t in ours] != [t[0] for t in peer]:
        sys.exit("fp8_gemm: the two files are not of the same cases")
    ratios = [(key, us, theirs, theirs / us, config) for (key, us, config), (_, theirs) in zip(ours, peer)]
    for (groups, m, n, k), us, theirs, ratio, config in ratios:
        print(f"{groups:4} {m:6} {n:6} {k:6} {us:9.2f} {theirs:9.2f} {ratio:5.2f} {config}")
    dense = [r for r in ratios if r[0][0] == 0]
    kinds = {
        "dense": dense,
        "dense, m <= 64": [r for r in dense if r[0][1] <= 64],
        "dense, m > 64": [r for r in dense if r[0][1] > 64],
        "grouped": [r for r in ratios if r[0][0] > 0],
    }
    for name, rows in kinds.items():
        if rows:
            worst = min(rows, key=lambda r: r[3])
            print(
                f"{name}: geometric mean {geometric_mean([r[3] for r in rows]):.3f} of {len(rows)}, "
                f"{sum(r[3] < 0.97 for r in rows)} under 0.97, worst {worst[3]:.2f} at {worst[0]}"
            )
    if json_path:
        keys = ("groups", "m", "n", "k")
        with open(json_path, "w") as file:
            json.dump(
                [dict(zip(keys, r[0]), us=r[1], peer_us=r[2], config=r[4]) for r in ratios], file, indent=0
            )


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
        for n, k, m, rows in cases():
            print(m, n, k, *rows)
    else:
        table(read_ours(arguments.ours), read_peer(arguments.peer), arguments.json)


if __name__ == "__main__":
    main()
