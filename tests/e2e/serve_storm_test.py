"""A short storm (tests/e2e/serve_storm.py) against models/tiny-r1 on the CPU, with little KV memory
so that sequences are preempted; and one against a shape with dummy weights and no tokenizer.

Usage: serve_storm_test.py PATH_OF_DEEPFLIGHT   (from the repository's root)
"""
import json
import shutil
import subprocess
import sys
import tempfile
import unittest

from serving import TIME_FACTOR, Served

binary = sys.argv.pop(1) if len(sys.argv) > 1 else "build/cpu/deepflight"
STORM = "tests/e2e/serve_storm.py"


def storm(url, *arguments):
    done = subprocess.run([sys.executable, STORM, "--url", url, *arguments], capture_output=True,
                          text=True, timeout=240 * TIME_FACTOR, check=False)
    return done.returncode, done.stdout, done.stderr


class ServeStorm(unittest.TestCase):
    def test_tiny_r1_with_little_memory(self):
        with Served(binary, "--model", "models/tiny-r1", "--max-num-seqs", "16",
                    "--max-model-len", "1024", "--kv-cache-mib", "16") as served:
            code, out, err = storm(served.url, "--clients", "24", "--seconds", str(10 * TIME_FACTOR),
                                   "--max-prompt", "600", "--max-output", "60", "--drain",
                                   "--pid", str(served.process.pid))
            self.assertEqual(code, 0, out + err)
            report = json.loads(out)
            self.assertEqual(report["num_errors"], 0)
            self.assertGreater(report["requests"], 24)
            self.assertGreater(report["metrics"]["prefix_cache_hits_total"], 0)
            self.assertGreater(report["metrics"]["kv_pages"], 0)
            self.assertGreater(report["drained"]["in_flight_at_sigterm"], 8)
            self.assertEqual(report["drained"]["answered"], 24)
            self.assertEqual(served.process.wait(30 * TIME_FACTOR), 0)

    def test_a_shape_without_weights_or_tokenizer(self):
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy("tests/golden/v3_fp8/config.json", directory)
            with open(f"{directory}/config.json", encoding="utf-8") as file:
                config = json.load(file)
            config["vocab_size"] = 1000
            with open(f"{directory}/config.json", "w", encoding="utf-8") as file:
                json.dump(config, file)
            with Served(binary, "--model", directory, "--load-format", "dummy", "--dummy-zipf",
                        "1") as served:
                code, out, err = storm(served.url, "--clients", "8", "--seconds", "3",
                                       "--max-prompt", "60", "--max-output", "20", "--allow-few")
                self.assertEqual(code, 0, out + err)

    def test_a_server_that_is_not_there_is_told(self):
        code, _, err = storm("http://127.0.0.1:9", "--seconds", "1")
        self.assertEqual(code, 1)
        self.assertIn("127.0.0.1:9", err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
