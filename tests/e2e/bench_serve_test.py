"""`deepflight bench serve` against our own server, and against one that misbehaves on purpose.

Usage: bench_serve_test.py PATH_OF_DEEPFLIGHT   (from the repository's root)
"""
import http.server
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

from serving import Served

binary = sys.argv.pop(1) if len(sys.argv) > 1 else "build/cpu/deepflight"


def bench(url, *flags):
    """Runs the benchmark; returns (exit code, JSON report or None, stdout, stderr, HTML)."""
    with tempfile.TemporaryDirectory() as directory:
        report, page = Path(directory, "report.json"), Path(directory, "report.html")
        done = subprocess.run(
            [binary, "bench", "serve", "--url", url, "--json", report, "--html", page,
             *map(str, flags)], capture_output=True, text=True, timeout=120, check=False)
        read = json.loads(report.read_text()) if report.exists() and report.stat().st_size else None
        return (done.returncode, read, done.stdout, done.stderr,
                page.read_text() if page.exists() else "")


class AgainstOurServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.served = Served(binary, "--model", "models/tiny-r1").__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.served.__exit__()

    def test_closed_loop(self):
        code, report, stdout, _, page = bench(
            self.served.url, "--concurrency", 6, "--num-requests", 30, "--isl", "20:40", "--osl",
            "8:16", "--warmup", 3, "--seed", 5, "--slo-ttft-ms", 60000, "--slo-tpot-ms", 60000)
        self.assertEqual(code, 0)
        summary = report["summary"]
        self.assertEqual((summary["done"], summary["failed"]), (30, 0))
        self.assertEqual(summary["prompt_token_mismatches"], 0)
        self.assertEqual(summary["output_token_mismatches"], 0)
        self.assertEqual(summary["max_concurrency"], 6)
        self.assertTrue(30 * 20 <= summary["prompt_tokens"] <= 30 * 40)
        self.assertTrue(30 * 8 <= summary["output_tokens"] <= 30 * 16)
        for figure in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
            values = summary[figure]
            for lower, upper in zip(("p50", "p90", "p95", "p99"), ("p90", "p95", "p99", "max")):
                self.assertLessEqual(values[lower], values[upper], figure)
            self.assertGreater(values["p50"], 0)
        self.assertAlmostEqual(summary["qpm"], 60 * 30 / summary["seconds"], places=6)
        self.assertAlmostEqual(summary["output_tokens_per_s"],
                               summary["output_tokens"] / summary["seconds"], places=6)
        self.assertEqual(summary["goodput"]["share"], 1)
        self.assertEqual(report["config"]["model"], "tiny-r1")
        self.assertIn("30 of 30", stdout)
        self.assertGreaterEqual(page.count("<svg"), 6)
        self.assertNotIn("<script", page)

    def test_open_loop(self):
        code, report, *_ = bench(self.served.url, "--rate", 15, "--duration", 2, "--isl", 16,
                                 "--osl", 4, "--text-prompts", "--seed", 1)
        self.assertEqual(code, 0)
        summary = report["summary"]
        self.assertEqual(summary["failed"], 0)
        self.assertTrue(15 <= summary["done"] <= 45, summary["done"])
        self.assertEqual(summary["output_tokens"], 4 * summary["done"])
        self.assertLess(summary["send_lag_ms"]["p50"], 20)

    def test_chats_of_a_file(self):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as prompts:
            prompts.write('{"messages": [{"role": "user", "content": "What is 2 + 3?"}]}\n'
                          '{"prompt": "What is 40 + 2?", "max_tokens": 3}\n')
            prompts.flush()
            code, report, *_ = bench(self.served.url, "--concurrency", 2, "--num-requests", 4,
                                     "--prompts", prompts.name, "--osl", 400)
        self.assertEqual(code, 0)
        summary = report["summary"]
        self.assertEqual(summary["done"], 4)
        self.assertEqual(summary["output_token_mismatches"], 0)  # the model may stop by itself
        self.assertTrue(2 * 3 + 2 * 5 < summary["output_tokens"] < 2 * 3 + 2 * 400)

    def test_search(self):
        code, report, stdout, _, page = bench(
            self.served.url, "--find-max-qpm", "--rate", 10, "--num-requests", 12, "--isl", 16,
            "--osl", 4, "--slo-ttft-ms", 150, "--slo-tpot-ms", 100)
        self.assertEqual(code, 0)
        trials = report["search"]["trials"]
        self.assertGreaterEqual(len(trials), 2)
        passed = [trial["rate"] for trial in trials if trial["passed"]]
        self.assertEqual(report["search"]["max_rate"], max(passed, default=0))
        self.assertAlmostEqual(report["search"]["max_qpm"], 60 * report["search"]["max_rate"])
        self.assertEqual(stdout.count("holds") + stdout.count("fails  p99"), len(trials))
        self.assertIn("Trials", page)

    def test_refusals_are_counted(self):
        code, report, stdout, stderr, _ = bench(
            self.served.url, "--concurrency", 2, "--num-requests", 5, "--isl", 5000)
        self.assertEqual(code, 1)
        self.assertEqual(report["summary"]["done"], 0)
        self.assertEqual(report["summary"]["failures"]["HTTP 400"]["count"], 5)
        self.assertIn("failed: HTTP 400", stdout)
        self.assertIn("no request was answered", stderr)

    def test_ctrl_c_reports_what_finished(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "report.json")
            process = subprocess.Popen(
                [binary, "bench", "serve", "--url", self.served.url, "--concurrency", "2",
                 "--duration", "60", "--isl", "8", "--osl", "4", "--json", path],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=10)
            report = json.loads(path.read_text())
        self.assertEqual(process.returncode, 1)
        self.assertIn("interrupted", stderr)
        self.assertTrue(report["interrupted"])
        self.assertGreater(report["summary"]["done"], 0)
        self.assertLess(report["summary"]["seconds"], 10)
        self.assertIn("requests done", stdout)

    def test_bad_flags_are_refused_in_one_line(self):
        for flags, word in ((("--concurrency", 1, "--rate", 1), "--rate"),
                            ((), "--concurrency"),
                            (("--find-max-qpm",), "--slo-ttft-ms"),
                            (("--concurrency", 1, "--max-concurrency", 1), "--max-concurrency"),
                            (("--rate", 1, "--isl", "9:1"), "--isl"),
                            (("--rate", 1, "--extra-body", "[]"), "--extra-body"),
                            (("--rate", 1, "--endpoint", "x"), "--endpoint"),
                            (("--rate", 1, "--prompts", "/nowhere"), "/nowhere"),
                            (("--rate", 1, "--save", "/nowhere/x"), "--save")):
            code, _, _, stderr, _ = bench(self.served.url, *flags)
            self.assertEqual(code, 2, flags)
            self.assertEqual(len(stderr.strip().splitlines()), 1, stderr)
            self.assertIn(word, stderr)
        self.assertEqual(bench("https://x", "--rate", 1)[0], 2)


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """The model's name says what is wrong. "timed" is right: 100 ms to the first chunk, then four
    more, 40 ms apart, of two tokens each."""
    protocol_version = "HTTP/1.1"
    connections = set()

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.connections.add(self.client_address)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = body["model"]
        if kind == "busy":
            self.send_response(503)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"busy")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(0.1)
        for i in range(5):
            if i > 0:
                time.sleep(0.04)
            self.event({"choices": [{"text": "ab", "finish_reason": None}]})
            if kind == "cut" and i == 2:
                self.close_connection = True
                return
            if kind == "error" and i == 2:
                self.event({"error": {"message": "out of luck"}})
                self.close_connection = True
                return
        if kind != "no usage":
            self.event({"choices": [], "usage": {"prompt_tokens": len(body["prompt"]),
                                                 "completion_tokens": 10}})
        self.data(b"data: [DONE]\n\n")
        self.data(b"")

    def event(self, body):
        self.data(f"data: {json.dumps(body)}\n\n".encode())

    def data(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


class AgainstAMisbehavingServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
        cls.server.daemon_threads = True
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.url = f"http://127.0.0.1:{cls.server.server_address[1]}"

    @classmethod
    def tearDownClass(cls):
        cls.server.shutdown()
        cls.server.server_close()

    def run_kind(self, kind, num_requests=4, osl=10):
        return bench(self.url, "--model", kind, "--concurrency", 2, "--num-requests", num_requests,
                     "--isl", 7, "--osl", osl)[:2]

    def test_times_are_the_servers(self):
        Misbehaving.connections.clear()
        code, report = self.run_kind("timed", 8)
        self.assertEqual(code, 0)
        summary = report["summary"]
        self.assertEqual((summary["done"], summary["output_tokens"]), (8, 80))
        self.assertEqual(summary["tokens_per_chunk"], 2)
        # A loaded machine may be late, never early.
        for figure, least, most in (("ttft_ms", 100, 160), ("itl_ms", 40, 60),
                                    ("tpot_ms", 160 / 9, 28), ("e2e_ms", 260, 400)):
            self.assertGreaterEqual(summary[figure]["p50"], least - 1, figure)
            self.assertLessEqual(summary[figure]["p50"], most, figure)
        self.assertEqual(summary["itl_ms"]["count"], 8 * 4)
        self.assertLessEqual(len(Misbehaving.connections), 2)  # kept and used again

    def test_every_failure_has_its_name(self):
        for kind, failure in (("busy", "HTTP 503"), ("cut", "broken stream"),
                              ("error", "error in the stream"), ("no usage", "no usage")):
            code, report = self.run_kind(kind)
            self.assertEqual(code, 1, kind)
            self.assertEqual(report["summary"]["failures"][failure]["count"], 4)
            self.assertEqual(report["summary"]["done"], 0)

    def test_other_counts_than_asked_are_counted(self):
        code, report = self.run_kind("timed", osl=11)
        self.assertEqual(code, 0)
        self.assertEqual(report["summary"]["output_token_mismatches"], 4)
        self.assertEqual(report["summary"]["prompt_token_mismatches"], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
