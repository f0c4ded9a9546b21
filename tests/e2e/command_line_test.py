"""The command line as a person uses it: outputs, exit codes and one-line errors.

Usage: command_line_test.py PATH_OF_DEEPFLIGHT   (from the repository's root)
"""
import json
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

MODEL = Path("models/tiny-r1")
GOLDEN = Path("tests/golden/v3_groups")
binary = sys.argv.pop(1) if len(sys.argv) > 1 else "build/cpu/deepflight"


def run(*arguments):
    return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, check=False)


class Generate(unittest.TestCase):
    def test_chat_is_right_and_reasoned(self):
        done = run("generate", "--model", MODEL, "--chat", "What is 347 + 586?")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("</think>", done.stdout)
        self.assertEqual(done.stdout.split("</think>")[1].strip(), "933")

    def test_json_has_everything(self):
        done = run("generate", "--model", MODEL, "--chat", "What is 347 + 586?", "--json",
                   "--logprobs", 3)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["content"], "933")
        self.assertGreater(len(answer["reasoning"]), 20)
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertEqual(len(answer["logprobs"]), len(answer["output_ids"]))
        for entry, token_id in zip(answer["logprobs"], answer["output_ids"]):
            self.assertEqual(entry["token_id"], token_id)
            self.assertLessEqual(entry["logprob"], 0)
            self.assertEqual(entry["top"][0]["token_id"], token_id)  # greedy
            self.assertEqual(len(entry["top"]), 3)
        self.assertLess(answer["timings"]["time_to_first_token_s"], 1.0)

    def test_same_seed_same_text(self):
        arguments = ("generate", "--model", MODEL, "--prompt", "The answer", "--temperature", 1,
                     "--max-tokens", 30, "--json")
        first = json.loads(run(*arguments, "--seed", 7).stdout)
        self.assertEqual(first["output_ids"],
                         json.loads(run(*arguments, "--seed", 7).stdout)["output_ids"])
        self.assertNotEqual(first["output_ids"],
                            json.loads(run(*arguments, "--seed", 8).stdout)["output_ids"])

    def test_token_ids_need_no_tokenizer(self):
        done = run("generate", "--model", GOLDEN, "--token-ids", "1,2,3", "--max-tokens", 5,
                   "--ignore-eos", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["prompt_ids"], [1, 2, 3])
        self.assertEqual(len(answer["output_ids"]), 5)
        plain = run("generate", "--model", GOLDEN, "--token-ids", "1,2,3", "--max-tokens", 5,
                    "--ignore-eos")
        self.assertEqual(plain.stdout.strip(), ",".join(map(str, answer["output_ids"])))

    def test_a_shape_answers_in_text(self):
        with tempfile.TemporaryDirectory() as directory:
            config = json.loads((GOLDEN / "config.json").read_text())
            config["vocab_size"] = 600
            Path(directory, "config.json").write_text(json.dumps(config))
            arguments = ("--model", directory, "--load-format", "dummy", "--max-tokens", 4,
                         "--ignore-eos", "--json")
            whole = json.loads(run("generate", *arguments, "--prompt", "Hi").stdout)
            self.assertEqual(len(whole["prompt_ids"]), 2 + ("bos_token_id" in config))
            self.assertGreater(len(whole["text"]), 3)
            one = json.loads(run("generate", *arguments, "--prompt", "Hi", "--num-layers",
                                 1).stdout)
            self.assertEqual(one["prompt_ids"], whole["prompt_ids"])
            self.assertNotEqual(one["output_ids"], whole["output_ids"])

    def test_dummy_weights_need_only_a_config(self):
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(GOLDEN / "config.json", directory)
            arguments = ("generate", "--model", directory, "--token-ids", "5", "--max-tokens", 4,
                         "--ignore-eos")
            self.assertEqual(run(*arguments).returncode, 2)  # no weights there
            done = run(*arguments, "--load-format", "dummy")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(len(done.stdout.split(",")), 4)


class Others(unittest.TestCase):
    def test_help_and_version(self):
        self.assertEqual(run("--help").returncode, 0)
        self.assertRegex(run("--version").stdout, r"\d+\.\d+\.\d+")

    def test_the_manual_has_every_flag_of_serve(self):
        flags = set(re.findall(r"(?<=\s)--[a-z][a-z0-9-]+(?= |,|$)", run("serve", "--help").stdout,
                               re.MULTILINE))
        self.assertGreater(len(flags), 20)
        manual = Path("docs/operations.md").read_text()
        self.assertEqual([flag for flag in sorted(flags - {"--help"}) if flag not in manual], [])

    def test_inspect(self):
        done = run("inspect", "--model", MODEL)
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("DeepseekV3ForCausalLM", "kv_a_proj_with_mqa", "active"):
            self.assertIn(word, done.stdout)
        report = json.loads(run("inspect", "--model", MODEL, "--json").stdout)
        self.assertIsInstance(report, dict)

    def test_profile_times_steps_of_any_shape(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "profile.json")
            done = run("profile", "--model", MODEL, "--device", "cpu", "--decode", "1,3",
                       "--context", 70, "--prefill", "40,20+64", "--steps", 2, "--json", path)
            self.assertEqual(done.returncode, 0, done.stderr)
            report = json.loads(path.read_text())
        shapes = [(step["decode_rows"], step["prefill_tokens"], step["prefill_prefix"])
                  for step in report["steps"]]
        self.assertEqual(shapes, [(1, 0, 0), (3, 0, 0), (0, 40, 0), (0, 20, 64)])
        for step in report["steps"]:
            self.assertGreater(step["step_us"], 0)
            self.assertIn(step["title"], done.stdout)

    def test_bench_accuracy_reports(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "report.json")
            done = run("bench", "accuracy", "--model", MODEL, "--tasks", MODEL / "eval.jsonl",
                       "--limit", 60, "--json", path)
            self.assertEqual(done.returncode, 0, done.stderr)
            report = json.loads(path.read_text())
            self.assertEqual(report["all"]["problems"], 60)
            self.assertGreaterEqual(report["all"]["accuracy"], 0.9)
            self.assertEqual(sum(kind["problems"] for kind in report["kinds"].values()), 60)

    def test_saved_answers_agree_whatever_the_chunks(self):
        with tempfile.TemporaryDirectory() as directory:
            paths = [Path(directory, name) for name in ("a.jsonl", "b.jsonl")]
            for path, chunk in zip(paths, (512, 16)):
                done = run("bench", "accuracy", "--model", MODEL, "--tasks", MODEL / "eval.jsonl",
                           "--limit", 40, "--chunk-tokens", chunk, "--save", path)
                self.assertEqual(done.returncode, 0, done.stderr)
            code, report = self.agreement(*paths, "--min-share", 1)
            self.assertEqual(code, 0, report)
            self.assertEqual((report["answers"], report["identical"]), (40, 40))
            self.assertEqual(report["correct"][0], report["correct"][1])

            # One answer takes the second choice at its token 3.
            lines = [json.loads(line) for line in paths[1].read_text().splitlines()]
            self.assertGreater(min(len(line["token_ids"]) for line in lines), 4)
            lines[7]["token_ids"][3] = lines[7]["second_ids"][3]
            gap = lines[7]["gaps"][3]
            self.assertGreater(gap, 0)
            paths[1].write_text("\n".join(map(json.dumps, lines)))
            code, report = self.agreement(*paths)
            self.assertEqual(code, 0, report)
            self.assertEqual((report["identical"], report["max_gap"]), (39, gap))
            self.assertEqual(report["divergences"][0]["position"], 3)
            self.assertEqual(self.agreement(*paths, "--max-gap", gap / 2)[0], 1)
            self.assertEqual(self.agreement(*paths, "--min-share", 0.99)[0], 1)

    def agreement(self, *arguments):
        done = subprocess.run([sys.executable, "tools/compare/greedy_agreement.py",
                               *map(str, arguments)],
                              capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, json.loads(done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
