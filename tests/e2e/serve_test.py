"""`deepflight serve` through a socket, with the openai client: right answers, streams, drain.

Usage: serve_test.py PATH_OF_DEEPFLIGHT   (from the repository's root)
"""
import concurrent.futures
import json
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
import urllib.request
from pathlib import Path

import openai

from serving import Served

binary = sys.argv.pop(1) if len(sys.argv) > 1 else "build/cpu/deepflight"


class ServedTinyR1(Served):
    def __init__(self, *flags):
        super().__init__(binary, "--model", "models/tiny-r1", *flags)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def ask(self, question, **fields):
        fields.setdefault("temperature", 0)
        return self.client.chat.completions.create(
            model="tiny-r1", messages=[{"role": "user", "content": question}], **fields)


class Serve(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.served = ServedTinyR1().__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.served.__exit__()

    def test_answer_is_right_and_reasoned(self):
        answer = self.served.ask("What is 347 + 586?")
        message = answer.choices[0].message
        self.assertEqual(message.content.strip(), "933")
        self.assertGreater(len(message.reasoning_content), 20)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertGreater(answer.usage.completion_tokens, 20)

    def test_stream_carries_the_same(self):
        whole = self.served.ask("What is 347 + 586?").choices[0].message
        content, reasoning, usage = "", "", None
        num_chunks = 0
        for chunk in self.served.ask("What is 347 + 586?", stream=True,
                                     stream_options={"include_usage": True}):
            num_chunks += 1
            if chunk.usage:
                usage = chunk.usage
            for choice in chunk.choices:
                content += choice.delta.content or ""
                reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        self.assertEqual(content, whole.content)
        self.assertEqual(reasoning, whole.reasoning_content)
        self.assertGreater(num_chunks, 20)
        self.assertIsNotNone(usage)

    def test_several_turns(self):
        history = [{"role": "user", "content": "What is 347 + 586?"}]
        first = self.served.client.chat.completions.create(
            model="tiny-r1", messages=history, temperature=0).choices[0].message.content
        history += [{"role": "assistant", "content": first},
                    {"role": "user", "content": "What is 120 - 45?"}]
        second = self.served.client.chat.completions.create(
            model="tiny-r1", messages=history, temperature=0)
        self.assertEqual(second.choices[0].message.content.strip(), "75")

    def test_concurrent_requests_get_the_answers_they_get_alone(self):
        questions = [f"What is {100 + 7 * i} + {900 - 11 * i}?" for i in range(24)]
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda q: self.served.ask(q).choices[0].message, questions))
        for question, answer in zip(questions[:6], answers):
            alone = self.served.ask(question).choices[0].message
            self.assertEqual(alone.content, answer.content)
            self.assertEqual(alone.reasoning_content, answer.reasoning_content)

    def test_seed_repeats(self):
        texts = {self.served.ask("Hello!", temperature=1, seed=5, max_tokens=40).choices[0]
                 .message.model_dump_json() for _ in range(3)}
        self.assertEqual(len(texts), 1)

    def test_curl(self):
        body = json.dumps({"model": "tiny-r1", "stream": True, "temperature": 0,
                           "messages": [{"role": "user", "content": "What is 347 + 586?"}]})
        done = subprocess.run(
            ["curl", "-sN", f"{self.served.url}/v1/chat/completions", "-H",
             "Content-Type: application/json", "-d", body],
            capture_output=True, text=True, timeout=60, check=True)
        events = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
        self.assertEqual(events[-1], "data: [DONE]")
        self.assertGreater(len(events), 20)

    def test_metrics_of_the_dashboard_and_of_the_manual_are_there(self):
        self.served.ask("What is 2 + 3?")
        with urllib.request.urlopen(f"{self.served.url}/metrics") as answer:
            text = answer.read().decode()
        exported = set(re.findall(r"^((?:vllm|deepflight):\w+)\{", text, re.MULTILINE))
        for path in ("dashboards/grafana.json", "docs/operations.md"):
            named = set(re.findall(r"(?:vllm|deepflight):[a-z0-9_]+[a-z0-9]", Path(path).read_text()))
            self.assertGreater(len(named), 10)
            for name in named:
                self.assertTrue(name in exported or f"{name}_sum" in exported, f"{path}: {name}")
        value = float(re.search(r"^vllm:generation_tokens_total\{[^}]*\} (\S+)", text,
                                re.MULTILINE)[1])
        self.assertGreater(value, 10)
        self.assertIn('vllm:request_success_total{finished_reason="stop",model_name="tiny-r1"}', text)

    def test_disconnect_leaves_the_server_free(self):
        stream = self.served.ask("Count.", stream=True, max_tokens=3000,
                                 extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        start = time.monotonic()
        self.assertEqual(self.served.ask("What is 2 + 3?").choices[0].finish_reason, "stop")
        self.assertLess(time.monotonic() - start, 20)


class Drain(unittest.TestCase):
    def test_sigterm_loses_nothing_that_was_accepted(self):
        with ServedTinyR1() as served:
            finished = []

            def run(i):
                answer = served.ask(f"What is {i} + 500?", max_tokens=300,
                                    extra_body={"ignore_eos": True})
                finished.append(answer.usage.completion_tokens)

            threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            served.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join(60)
            self.assertEqual(finished, [300] * 8)
            self.assertEqual(served.process.wait(30), 0)

    def test_start_to_first_token_takes_less_than_a_second(self):
        start = time.monotonic()
        with ServedTinyR1() as served:
            for _ in served.ask("What is 347 + 586?", stream=True):
                break
            self.assertLess(time.monotonic() - start, 1.0)
            with urllib.request.urlopen(f"{served.url}/health") as response:
                self.assertEqual(response.status, 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
