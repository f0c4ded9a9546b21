"""What the HTTP layer costs: streamed chunks for each second of one core, with an engine that repeats
what it is told.

Usage: echo_throughput_test.py PATH_OF_ECHO_SERVER PATH_OF_DEEPFLIGHT

64 streams of 1000 tokens, a chunk each, one every millisecond; `deepflight bench serve` reads them.
The server may use one core, and what counts is its processor time, engine included, so that the
figure holds on a busy machine. Prints it; fails below 20,000.
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

NUM_STREAMS = 64
NUM_TOKENS = 1000
MIN_CHUNKS_PER_S = 20_000 / float(os.environ.get("DF_TIME_FACTOR", "1"))
deepflight = sys.argv.pop() if len(sys.argv) > 2 else "build/cpu/deepflight"
echo_server = sys.argv.pop() if len(sys.argv) > 1 else "build/cpu/tests/echo_server"


def processor_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class EchoThroughput(unittest.TestCase):
    def test_chunks_of_one_core(self):
        core = min(os.sched_getaffinity(0))
        server = subprocess.Popen([echo_server, "--token-us", "1000"], stdout=subprocess.PIPE,
                                  text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
        try:
            url = server.stdout.readline().split()[-1]
            begin_s = processor_s(server.pid)
            with tempfile.TemporaryDirectory() as directory:
                report = Path(directory, "report.json")
                subprocess.run([deepflight, "bench", "serve", "--url", url, "--concurrency",
                                str(NUM_STREAMS), "--num-requests", str(NUM_STREAMS), "--isl", "16",
                                "--osl", str(NUM_TOKENS), "--vocab-size", "200", "--json", report],
                               capture_output=True, timeout=300, check=True)
                summary = json.loads(report.read_text())["summary"]
            used_s = processor_s(server.pid) - begin_s
        finally:
            server.terminate()
            server.wait(20)
            server.stdout.close()
        self.assertEqual(summary["failed"], 0)
        self.assertEqual(summary["output_tokens"], NUM_STREAMS * NUM_TOKENS)
        self.assertLess(summary["tokens_per_chunk"], 1.1)
        num_chunks = NUM_STREAMS * NUM_TOKENS / summary["tokens_per_chunk"]
        print(f"{num_chunks / used_s:.0f} chunks for each second of a core, "
              f"{num_chunks / summary['seconds']:.0f} in a second of this run")
        self.assertGreater(num_chunks / used_s, MIN_CHUNKS_PER_S)


if __name__ == "__main__":
    unittest.main(verbosity=2)
