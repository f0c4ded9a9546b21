"""A `deepflight serve` of its own for a test: on a free port, ended when the block is left."""
import os
import signal
import subprocess

# How many times as long everything takes, as under sanitizers.
TIME_FACTOR = float(os.environ.get("DF_TIME_FACTOR", "1"))


class Served:
    def __init__(self, binary, *flags):
        self.process = subprocess.Popen([binary, "serve", "--port", "0", *flags],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.url = line.split()[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30 * TIME_FACTOR)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.stdout.close()
