#!/usr/bin/env python3
"""How far two runs of one model give the same greedy answers, and how close the calls were where not.

Usage: deepflight bench accuracy --model models/tiny-r1 --tasks models/tiny-r1/eval.jsonl --save a.jsonl
       ... the same on another backend or with other flags, --save b.jsonl ...
       greedy_agreement.py a.jsonl b.jsonl [--min-share 0.97] [--max-gap 0.5]

An answer agrees if its token ids are all the same. Otherwise the first differing token counts: its gap
is the lead, in nats, of the most likely token over the second in either run (the larger). A gap near 0
is a near-tie, which rounding may decide; a large one is an error. Prints one JSON object; exit 1 if
the share of agreeing answers is below --min-share or a gap is above --max-gap.
"""
import argparse
import json
import sys
from itertools import zip_longest

MAX_LISTED = 10


def read(path):
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.strip()]
    for number, line in enumerate(lines, 1):
        if len(line["gaps"]) != len(line["token_ids"]):
            sys.exit(f"{path}:{number}: {len(line['gaps'])} gaps for {len(line['token_ids'])} tokens")
    return lines


def first_difference(a, b):
    """Position of the first differing token, None if there is none. One may be the other's beginning."""
    for position, (x, y) in enumerate(zip_longest(a, b)):
        if x != y:
            return position
    return None


def divergence(a, b):
    """None for answers that agree, else what happened where they part."""
    position = first_difference(a["token_ids"], b["token_ids"])
    if position is None:
        return None
    sides = [side for side in (a, b) if position < len(side["token_ids"])]
    tokens = [side["token_ids"][position] for side in sides]
    # With one answer at its end the other's token differs from nothing: no near-tie can explain it.
    is_swap = len(sides) == 2 and all(
        side["second_ids"][position] == other
        for side, other in zip(sides, reversed(tokens)))
    return {"position": position, "tokens": tokens,
            "gap": max(side["gaps"][position] for side in sides),
            "second_choice": is_swap, "prompt": a["prompt"]}


def compare(runs_a, runs_b):
    if [a["prompt"] for a in runs_a] != [b["prompt"] for b in runs_b]:
        sys.exit("greedy_agreement: the two files are not of the same problems")
    if not runs_a:
        sys.exit("greedy_agreement: no answers")
    divergences = [found for found in map(divergence, runs_a, runs_b) if found]
    gaps = sorted(found["gap"] for found in divergences)
    return {
        "answers": len(runs_a),
        "identical": len(runs_a) - len(divergences),
        "share_identical": 1 - len(divergences) / len(runs_a),
        "correct": [sum(line["correct"] for line in runs) for runs in (runs_a, runs_b)],
        "max_gap": gaps[-1] if gaps else 0.0,
        "median_gap": gaps[len(gaps) // 2] if gaps else 0.0,
        "second_choice": sum(found["second_choice"] for found in divergences),
        "divergences": sorted(divergences, key=lambda found: -found["gap"])[:MAX_LISTED],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--min-share", type=float, default=0.97)
    parser.add_argument("--max-gap", type=float, default=float("inf"), help="nats")
    options = parser.parse_args()
    report = compare(read(options.a), read(options.b))
    print(json.dumps(report, indent=1, ensure_ascii=False))
    good = (report["share_identical"] >= options.min_share
            and report["max_gap"] <= options.max_gap)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
