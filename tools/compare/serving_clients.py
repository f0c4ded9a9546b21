#!/usr/bin/env python3
"""Measures one server with two clients in turn: `deepflight bench serve` and AIPerf (PyPI).

    deepflight serve --model models/tiny-r1 --port 8000 &
    serving_clients.py --url http://127.0.0.1:8000 --tokenizer models/tiny-r1 \
        [--concurrency 4 | --rate 2] [--requests 64] [--rounds 3] [--out FILE.json]

In each round both send the same requests in the same order: prompts of random words, each with a
number of output tokens of its own, and a cache_salt by which no run finds what another left behind. A
figure is compared by its median over the rounds; the distance between the rounds of one client says
how much of a difference is the server's own.
Exit code 1 if any figure differs by more than --within per cent.
"""
import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# What is compared: a name, its place in deepflight's report, its name and statistic in AIPerf's.
FIGURES = [
    ("ttft_ms mean", ("ttft_ms", "mean"), ("time_to_first_token", "avg")),
    ("ttft_ms p50", ("ttft_ms", "p50"), ("time_to_first_token", "p50")),
    ("ttft_ms p90", ("ttft_ms", "p90"), ("time_to_first_token", "p90")),
    ("tpot_ms mean", ("tpot_ms", "mean"), ("inter_token_latency", "avg")),
    ("tpot_ms p50", ("tpot_ms", "p50"), ("inter_token_latency", "p50")),
    ("tpot_ms p90", ("tpot_ms", "p90"), ("inter_token_latency", "p90")),
    ("e2e_ms mean", ("e2e_ms", "mean"), ("request_latency", "avg")),
    ("e2e_ms p50", ("e2e_ms", "p50"), ("request_latency", "p50")),
    ("e2e_ms p90", ("e2e_ms", "p90"), ("request_latency", "p90")),
    ("requests/s", ("requests_per_s",), ("request_throughput", "avg")),
    ("output tokens", ("output_tokens",), ("total_output_tokens", "avg")),
    ("output tokens/s", ("output_tokens_per_s",), ("output_token_throughput", "avg")),
]


def words(rng, count):
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 7)))
                    for _ in range(count))


def load_flags(args, rate_flag):
    if args.rate:
        return [rate_flag, str(args.rate)]
    return ["--concurrency", str(args.concurrency)]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_client(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stdout[-3000:]}")


def run_deepflight(args, requests, salt, folder):
    path = folder / "prompts.jsonl"
    write_lines(path, [{"prompt": prompt, "max_tokens": length} for prompt, length in requests])
    report = folder / "report.json"
    run_client([args.deepflight, "bench", "serve", "--url", args.url, "--prompts", str(path),
                "--endpoint", "completions", "--ignore-eos", "--seed", "1",
                "--extra-body", json.dumps({"cache_salt": salt}),
                "--num-requests", str(len(requests)), "--json", str(report),
                *load_flags(args, "--rate")])
    return json.loads(report.read_text())["summary"]


def run_aiperf(args, requests, salt, folder):
    path = folder / "texts.jsonl"
    write_lines(path, [{"text": prompt, "output_length": length} for prompt, length in requests])
    run_client([args.aiperf, "profile", "--model", args.model, "--url", args.url,
                "--endpoint-type", "completions", "--streaming",
                "--tokenizer", str(Path(args.tokenizer).resolve()),
                "--input-file", str(path), "--custom-dataset-type", "single_turn",
                "--dataset-sampling-strategy", "sequential", "--use-server-token-count",
                "--extra-inputs", json.dumps({"ignore_eos": True, "temperature": 0,
                                               "cache_salt": salt}),
                "--request-count", str(len(requests)), "--ui", "none", "--random-seed", "1",
                "--output-artifact-dir", str(folder / "aiperf"),
                *load_flags(args, "--request-rate")])
    return json.loads(next((folder / "aiperf").rglob("profile_export_aiperf.json")).read_text())


def find(report, path):
    for key in path:
        report = report[key]
    return float(report)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--tokenizer", required=True, help="the model's directory, for AIPerf")
    parser.add_argument("--model", default="tiny-r1", help="as the server names it")
    parser.add_argument("--deepflight", default="build/cpu/deepflight")
    parser.add_argument("--aiperf", default="aiperf")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--rate", type=float, help="requests/s, Poisson arrivals, in place of it")
    parser.add_argument("--requests", type=int, default=128, help="of each run")
    parser.add_argument("--words", type=int, default=32, help="of a prompt on average")
    parser.add_argument("--osl", type=int, default=128, help="output tokens on average")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--within", type=float, default=5.0)
    parser.add_argument("--out")
    args = parser.parse_args()

    def about(mean):
        return rng.randint(mean // 2, mean * 3 // 2)

    rng = random.Random(1)
    values = {name: ([], []) for name, _, _ in FIGURES}
    for number in range(args.rounds):
        requests = [(words(rng, about(args.words)), about(args.osl)) for _ in range(args.requests)]
        for index, run in enumerate((run_deepflight, run_aiperf)):
            with tempfile.TemporaryDirectory() as folder:
                report = run(args, requests, f"salt-{rng.randrange(10**9)}", Path(folder))
            for name, *paths in FIGURES:
                values[name][index].append(find(report, paths[index]))
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr, flush=True)

    rows, all_agree = [], True
    for name, (ours, theirs) in values.items():
        mine, other = statistics.median(ours), statistics.median(theirs)
        difference = 100 * (mine / other - 1)
        spread = [100 * (max(times) - min(times)) / min(times) for times in (ours, theirs)]
        all_agree &= abs(difference) <= args.within
        rows.append({"figure": name, "deepflight": mine, "aiperf": other,
                     "difference_percent": difference, "spread_percent": spread})
        print(f"{name:16} {mine:10.3f} {other:10.3f} {difference:+6.2f} %   "
              f"rounds within {spread[0]:.1f}, {spread[1]:.1f} %")
    if args.out:
        load = {"rate": args.rate} if args.rate else {"concurrency": args.concurrency}
        text = json.dumps({"machine": platform.processor() or platform.machine(),
                           "cores": os.cpu_count(), **load, "requests": args.requests,
                           "words": args.words, "osl": args.osl, "rounds": args.rounds, "rows": rows}, indent=1)
        Path(args.out).write_text(text + "\n")
    return 0 if all_agree else 1


if __name__ == "__main__":
    sys.exit(main())
