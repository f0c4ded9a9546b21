#!/usr/bin/env python3
"""Whether a step with drafts costs no more than its extra work explains.

    deepflight profile ... --decode 32,128 --context 4096 --mtp 0 --json 0.json
    deepflight profile ... --decode 32,128 --context 4096 --mtp 1 --json 1.json
    mtp_step_cost.py 0.json 1.json [3.json ...]

A step is some ratio above its floor (the sum over its ops of the larger of bytes over the copy rate and
multiplications over the products' rate). With N drafts the floor has 1 + N query tokens a sequence, and N
times the module with the head. The rule: with one draft at B = 32, context 4096, the step takes at most
that floor times the ratio of the step without drafts, and 10 % more; it is one graph launch; the GPU is
busy for at least 98 % of it. Other steps are printed beside it and held to nothing. Exit 1 if the rule is
broken, 2 if the files do not hold what it needs.
"""
import argparse
import json
import sys

RULE_ROWS, RULE_CONTEXT, RULE_DRAFTS = 32, 4096, 1
SLACK = 1.10
MIN_BUSY = 0.98
SAME = ("device", "model", "num_layers", "kv_cache_dtype", "deterministic", "fp8_gemm_backend")


class BadFile(Exception):
    pass


def decode_steps(report):
    return {(step["decode_rows"], step["decode_context"]): step for step in report["steps"]
            if step["decode_rows"] > 0}


def judge(base, report):
    """A row for each decode step that both reports hold."""
    for field in SAME:
        if base.get(field) != report.get(field):
            raise BadFile(f"{field}: {base.get(field)} without drafts, {report.get(field)} with them")
    if base.get("mtp", 0) != 0 or report.get("mtp", 0) < 1:
        raise BadFile("the first file must be of --mtp 0, the others of 1 and more")
    plain_steps, rows = decode_steps(base), []
    for shape, step in decode_steps(report).items():
        plain = plain_steps.get(shape)
        if plain is None:
            continue
        if not plain["floor_us"] or not step["floor_us"]:
            raise BadFile("no floors: profiles of a GPU are needed")
        limit_us = step["floor_us"] * plain["step_us"] / plain["floor_us"] * SLACK
        is_rule = shape == (RULE_ROWS, RULE_CONTEXT) and report["mtp"] == RULE_DRAFTS
        good = (step["step_us"] <= limit_us and step["graph_launches"] == 1
                and step["gpu_busy"] >= MIN_BUSY)
        rows.append({"rows": shape[0], "context": shape[1], "drafts": report["mtp"],
                     "plain": plain, "step": step, "limit_us": limit_us,
                     "verdict": ("pass" if good else "FAIL") if is_rule else
                                ("within" if good else "above")})
    return rows


def print_table(rows):
    print("| batch, context, drafts | step without, ms (ratio) | step, ms (ratio) | limit, ms | graph "
          "launches | GPU busy | |\n| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        plain, step = row["plain"], row["step"]
        def text(s):
            return f"{s['step_us'] * 1e-3:.2f} ({s['step_us'] / s['floor_us']:.2f})"
        print(f"| {row['rows']}, {row['context']}, {row['drafts']} | {text(plain)} | {text(step)} | "
              f"{row['limit_us'] * 1e-3:.2f} | {step['graph_launches']:g} | "
              f"{100 * step['gpu_busy']:.1f} % | {row['verdict']} |")


def run(base, reports):
    """Exit code of the rule."""
    rows = [row for report in reports for row in judge(base, report)]
    print_table(rows)
    verdicts = [row["verdict"] for row in rows if row["verdict"] in ("pass", "FAIL")]
    if not verdicts:
        raise BadFile(f"no step with {RULE_DRAFTS} draft at B = {RULE_ROWS}, context {RULE_CONTEXT}")
    return int("FAIL" in verdicts)


def self_test():
    def report(drafts, step_us, floor_us, launches=1, busy=0.99, **fields):
        return {"mtp": drafts, "device": "x", **fields, "steps": [
            {"decode_rows": 32, "decode_context": 4096, "step_us": step_us, "floor_us": floor_us,
             "graph_launches": launches, "gpu_busy": busy}]}

    base = report(0, 1200, 1000)  # a ratio of 1.2: with a floor of 1500 up to 1980 pass
    assert run(base, [report(1, 1979, 1500)]) == 0
    assert run(base, [report(1, 1981, 1500)]) == 1
    assert run(base, [report(1, 1900, 1500, launches=2)]) == 1
    assert run(base, [report(1, 1900, 1500, launches=0)]) == 1
    assert run(base, [report(1, 1900, 1500, busy=0.97)]) == 1
    assert run(base, [report(1, 1900, 1500), report(3, 9999, 1500)]) == 0  # no rule for three
    for bad in ([report(3, 1900, 1500)], [report(1, 1900, 1500, num_layers=8)],
                [report(1, 1900, 0)], [base]):
        try:
            run(base, bad)
            raise AssertionError(bad)
        except BadFile:
            pass
    print("self-test: good")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="profile --json: --mtp 0 first")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    if len(options.files) < 2:
        parser.error("give the profile without drafts and at least one with them")
    try:
        reports = []
        for path in options.files:
            with open(path, encoding="utf-8") as file:
                reports.append(json.load(file))
        return run(reports[0], reports[1:])
    except (BadFile, KeyError, OSError, ValueError) as error:
        print(f"mtp_step_cost: {error!r}" if isinstance(error, KeyError) else
              f"mtp_step_cost: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
