"""Bad input at every door, as tables: what is given, and what the one line that refuses it must name.
The command ends with exit code 2; the server answers with a 4xx and goes on.

Usage: bad_input_test.py PATH_OF_DEEPFLIGHT   (from the repository's root)
"""
import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
import urllib.parse
from pathlib import Path

from serving import Served

MODEL = Path("models/tiny-r1")
GOLDEN = Path("tests/golden/v3_groups")  # one safetensors file, no tokenizer
binary = sys.argv.pop(1) if len(sys.argv) > 1 else "build/cpu/deepflight"

GENERATE = ("generate", "--model", MODEL)
PROFILE = ("profile", "--model", MODEL)
ACCURACY = ("bench", "accuracy")
SERVE = ("serve", "--log-level", "warn", "--model")
LOAD = ("bench", "serve", "--url", "http://127.0.0.1:9")

# Arguments, and words of the refusal.
COMMANDS = [
    ((), ["subcommand"]),
    (("fly",), ["subcommand"]),
    (("generate", "--prompt", "x"), ["--model"]),
    (("generate", "--model", "/nowhere", "--prompt", "x"), ["/nowhere"]),
    (GENERATE, ["--prompt"]),
    ((*GENERATE, "--prompt", "x", "--chat", "y"), ["--chat"]),
    ((*GENERATE, "--prompt", "x", "--no-such-flag"), ["--no-such-flag"]),
    ((*GENERATE, "--prompt", "x", "--top-p", "2"), ["top_p"]),
    ((*GENERATE, "--prompt", "x", "--temperature", "-1"), ["temperature"]),
    ((*GENERATE, "--prompt", "x", "--temperature", "nan"), ["temperature"]),
    ((*GENERATE, "--prompt", "x", "--max-tokens", "-5"), ["max"]),
    ((*GENERATE, "--prompt", "x", "--max-tokens", "99999"), ["99999"]),
    ((*GENERATE, "--prompt", "x", "--max-tokens", "9" * 30), ["--max-tokens"]),
    ((*GENERATE, "--prompt", "x " * 50000), ["4096"]),
    ((*GENERATE, "--token-ids", "1,x"), ["--token-ids"]),
    ((*GENERATE, "--token-ids", "-1"), ["-1"]),
    ((*GENERATE, "--token-ids", "999999"), ["999999"]),
    ((*GENERATE, "--token-ids", "99999999999999999999"), ["--token-ids"]),
    ((*GENERATE, "--prompt", "x", "--max-model-len", "99999"), ["--max-model-len"]),
    ((*GENERATE, "--prompt", "x", "--kv-cache-mib", "1"), ["--kv-cache-mib"]),
    ((*GENERATE, "--prompt", "x", "--kv-cache-mib", "-1"), ["--kv-cache-mib"]),
    ((*GENERATE, "--prompt", "x", "--num-layers", "99"), ["--num-layers 99"]),
    ((*GENERATE, "--prompt", "x", "--device", "cuda"), ["--device cuda"]),
    ((*GENERATE, "--prompt", "x", "--device", "tpu"), ["--device", "tpu"]),
    ((*GENERATE, "--prompt", "x", "--kv-cache-dtype", "fp4"), ["--kv-cache-dtype", "fp8_group"]),
    ((*GENERATE, "--prompt", "x", "--deterministic", "--reuse-output-pages"),
     ["--deterministic", "--reuse-output-pages"]),
    ((*GENERATE, "--prompt", "x", "--deterministic", "--fp8-gemm-backend", "cublaslt"),
     ["--deterministic", "--fp8-gemm-backend"]),
    ((*GENERATE, "--prompt", "x", "--fp8-gemm-backend", "cutlass"),
     ["--fp8-gemm-backend", "cutlass"]),
    ((*GENERATE, "--prompt", "x", "--mtp", "6"), ["--mtp"]),
    ((*GENERATE, "--prompt", "x", "--log-level", "loud"), ["loud"]),
    (("generate", "--model", GOLDEN, "--prompt", "x"), ["tokenizer.json"]),
    ((*SERVE, GOLDEN), ["tokenizer.json"]),
    ((*SERVE, MODEL, "--api-key", "two words"), ["--api-key"]),
    ((*SERVE, MODEL, "--port", "70000"), ["--port", "70000"]),
    ((*SERVE, MODEL, "--port", "http"), ["--port", "http"]),
    ((*SERVE, MODEL, "--host", "no.such.host.invalid"), ["no.such.host.invalid"]),
    ((*SERVE, MODEL, "--host", "192.0.2.1"), ["192.0.2.1"]),
    ((*SERVE, MODEL, "--max-num-seqs", "-1"), ["--max-num-seqs"]),
    ((*SERVE, MODEL, "--max-requests", "-1"), ["--max-requests"]),
    (("inspect", "--model", MODEL / "config.json"), ["config.json"]),
    (PROFILE, ["--decode", "--prefill"]),
    ((*PROFILE, "--prefill", "8x"), ["--prefill '8x'"]),
    ((*PROFILE, "--prefill", "0+8"), ["--prefill '0+8'"]),
    ((*PROFILE, "--prefill", "9000+1"), ["--max-model-len"]),
    ((*ACCURACY, "--model", MODEL, "--tasks", "/nowhere"), ["/nowhere"]),
    ((*ACCURACY, "--model", MODEL, "--tasks", "/dev/zero"), ["/dev/zero"]),
    ((*ACCURACY, "--model", MODEL, "--tasks", MODEL / "README.md"), ["README.md:1"]),
    ((*ACCURACY, "--tasks", "x"), ["--model", "--url"]),
    ((*ACCURACY, "--tasks", "x", "--url", "http://x", "--save", "y"), ["--save", "--url"]),
    (("bench", "serve", "--url", "ftp://x", "--concurrency", "1"), ["ftp://x"]),
    ((*LOAD, "--concurrency", "0"), ["--concurrency"]),
    ((*LOAD, "--concurrency", "1", "--isl", "9:1"), ["--isl"]),
    ((*LOAD, "--concurrency", "1", "--prompts", "/nowhere"), ["/nowhere"]),
    ((*LOAD, "--concurrency", "1", "--extra-body", "{"), ["--extra-body"]),
]


class Checkpoint:
    """A copy of a small model's directory that can be spoilt."""

    def __init__(self, directory, source=GOLDEN):
        self.path = Path(directory)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            if (source / name).exists():
                shutil.copy(source / name, self.path)

    def write(self, name, content):
        (self.path / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def remove(self, name):
        (self.path / name).unlink()

    def replace(self, name, make):
        """With something that is no plain file."""
        self.remove(name)
        make(self.path / name)

    def set(self, name, **fields):
        self.write(name, json.dumps(json.loads((self.path / name).read_text()) | fields))

    def tensors(self):
        data = (self.path / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        return json.loads(data[8:8 + size]), data[8 + size:]

    def set_tensors(self, header, data):
        text = json.dumps(header).encode()
        self.write("model.safetensors", struct.pack("<Q", len(text)) + text + data)

    def cut(self, num_bytes):
        self.write("model.safetensors", (self.path / "model.safetensors").read_bytes()[:num_bytes])

    def set_length(self, length):
        """What the file says of its header's length."""
        data = (self.path / "model.safetensors").read_bytes()
        self.write("model.safetensors", struct.pack("<Q", length) + data[8:])

    def set_entry(self, name, **fields):
        header, data = self.tensors()
        header[name] |= fields
        self.set_tensors(header, data)

    def rename(self, name, new_name):
        header, data = self.tensors()
        header[new_name] = header.pop(name)
        self.set_tensors(header, data)

    def use_index(self, shard_of):
        """An index that says where "lm_head.weight" lies."""
        (self.path / "model.safetensors").rename(self.path / "one.safetensors")
        self.write("model.safetensors.index.json",
                   json.dumps({"weight_map": {"lm_head.weight": shard_of}}))


HEAD = "lm_head.weight"  # BF16 [128, 64]
DEEP = "[" * 100_000

# What is done to the checkpoint, and words of the refusal.
CHECKPOINTS = [
    (lambda c: c.remove("config.json"), ["config.json"]),
    (lambda c: c.write("config.json", ""), ["config.json"]),
    (lambda c: c.write("config.json", '{"hidden_size": 64'), ["config.json", "JSON"]),
    (lambda c: c.write("config.json", b"\xff\xfe{}"), ["config.json", "JSON"]),
    (lambda c: c.write("config.json", "[]"), ["config.json"]),
    (lambda c: c.write("config.json", DEEP), ["config.json"]),
    (lambda c: c.write("config.json", " " * 5_000_000 + "{}"), ["config.json", "5000002 bytes"]),
    (lambda c: c.replace("config.json", os.mkdir), ["config.json", "not a regular file"]),
    (lambda c: c.replace("config.json", os.mkfifo), ["config.json", "not a regular file"]),
    (lambda c: c.replace("config.json", lambda p: p.symlink_to("/dev/zero")),
     ["config.json", "not a regular file"]),
    (lambda c: c.set("config.json", architectures=["LlamaForCausalLM"]),
     ["architectures", "LlamaForCausalLM"]),
    (lambda c: c.set("config.json", attention_bias=True), ["attention_bias"]),
    (lambda c: c.set("config.json", hidden_size=-64), ["hidden_size", "-64"]),
    (lambda c: c.set("config.json", hidden_size=10**30), ["hidden_size"]),
    (lambda c: c.set("config.json", hidden_size="64"), ["hidden_size"]),
    (lambda c: c.set("config.json", hidden_size=None), ["hidden_size"]),
    (lambda c: c.set("config.json", vocab_size=2**40), ["vocab_size"]),
    (lambda c: c.set("config.json", n_routed_experts=2**31), ["n_routed_experts"]),
    (lambda c: c.set("config.json", num_hidden_layers=0), ["num_hidden_layers"]),
    (lambda c: c.set("config.json", max_position_embeddings=2**60), ["max_position_embeddings"]),
    (lambda c: c.set("config.json", rope_scaling={"type": "yarn"}), ["rope_scaling"]),
    (lambda c: c.set("config.json", quantization_config={"quant_method": "gptq"}), ["gptq"]),
    (lambda c: c.set("config.json", hidden_size=128), ["tensor", "64", "128"]),
    (lambda c: c.set("config.json", num_hidden_layers=7), ["tensor", "layers."]),
    (lambda c: c.write("generation_config.json", '{"eos_token_id": -3}'),
     ["generation_config.json", "eos_token_id"]),
    (lambda c: c.remove("model.safetensors"), ["model.safetensors"]),
    (lambda c: c.cut(0), ["model.safetensors"]),
    (lambda c: c.cut(5), ["model.safetensors"]),
    (lambda c: c.cut(1000), ["model.safetensors"]),
    (lambda c: c.cut(200_000), ["model.safetensors"]),
    (lambda c: c.set_length(2**63), ["model.safetensors", "header"]),
    (lambda c: c.set_length(99_999_999), ["model.safetensors", "header"]),
    (lambda c: c.set_length(100), ["model.safetensors", "header"]),
    (lambda c: c.replace("model.safetensors", os.mkdir), ["model.safetensors"]),
    (lambda c: c.replace("model.safetensors", os.mkfifo), ["model.safetensors"]),
    (lambda c: c.replace("model.safetensors", lambda p: p.symlink_to("/nowhere")),
     ["model.safetensors"]),
    (lambda c: c.set_entry(HEAD, dtype="Q7"), [HEAD, "Q7"]),
    (lambda c: c.set_entry(HEAD, dtype="I16"), [HEAD, "I16"]),
    (lambda c: c.set_entry(HEAD, dtype="F8_E4M3", shape=[128, 128]), [HEAD, "F8_E4M3"]),
    (lambda c: c.set_entry(HEAD, shape=[64, 128]), [HEAD, "[64, 128]", "[128, 64]"]),
    (lambda c: c.set_entry(HEAD, shape=[8192]), [HEAD, "[8192]"]),
    (lambda c: c.set_entry(HEAD, shape=[-128, -64]), [HEAD, "negative"]),
    (lambda c: c.set_entry(HEAD, shape=[2**62, 4, 128, 64]), [HEAD, "too large"]),
    (lambda c: c.set_entry(HEAD, data_offsets=[128, 2**63]), [HEAD, "data_offsets"]),
    (lambda c: c.set_entry(HEAD, data_offsets=[16512, 128]), [HEAD, "data_offsets"]),
    (lambda c: c.set_entry(HEAD, data_offsets=[0, 16384]), ["overlaps"]),
    (lambda c: c.rename(HEAD, "lm_head.wait"), [HEAD]),
    (lambda c: c.use_index("../one.safetensors"), ["index.json", "../one.safetensors"]),
    (lambda c: c.use_index("two.safetensors"), ["two.safetensors"]),
    (lambda c: c.use_index(7), ["index.json", "lm_head.weight"]),
    (lambda c: c.use_index("one.safetensors"), ["tensor"]),
]

# The same for what `serve` reads besides.
TOKENIZERS = [
    (lambda c: c.write("tokenizer.json", '{"model": '), ["tokenizer.json", "JSON"]),
    (lambda c: c.write("tokenizer.json", "{}"), ["tokenizer.json", "model"]),
    (lambda c: c.write("tokenizer.json", DEEP), ["tokenizer.json"]),
    (lambda c: c.set("tokenizer.json", model={"type": "WordPiece"}), ["WordPiece"]),
    (lambda c: c.set("config.json", vocab_size=1000), ["1000"]),
    (lambda c: c.write("tokenizer_config.json", "[]"), ["tokenizer_config.json"]),
    (lambda c: c.set("tokenizer_config.json", eos_token=7), ["tokenizer_config.json", "eos_token"]),
    (lambda c: c.set("tokenizer_config.json", chat_template="{% for x %}"), ["template"]),
    (lambda c: c.set("tokenizer_config.json", chat_template="{{ " + DEEP), ["template"]),
    (lambda c: c.write("chat_template.jinja", "{{ " * 1000), ["template"]),
]


def run(arguments):
    return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, check=False, stdin=subprocess.DEVNULL)


class CommandLine(unittest.TestCase):
    def expect_refusal(self, arguments, words):
        done = run(arguments)
        self.assertEqual(done.returncode, 2, done.stderr)
        lines = done.stderr.strip().splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertLess(len(lines[0]), 600)
        for word in words:
            self.assertIn(word, lines[0])

    def test_commands(self):
        for arguments, words in COMMANDS:
            with self.subTest(" ".join(map(str, arguments))[:100]):
                self.expect_refusal(arguments, words)

    def test_checkpoints(self):
        for number, (spoil, words) in enumerate(CHECKPOINTS):
            with self.subTest(number=number, words=words), tempfile.TemporaryDirectory() as path:
                spoil(Checkpoint(path))
                self.expect_refusal(("generate", "--model", path, "--token-ids", "1",
                                     "--max-tokens", "1"), words)

    def test_kv_scales(self):
        """A checkpoint's: an e4m3 KV cache uses them, and what is no scale is refused."""
        name = "model.layers.1.self_attn.k_scale"

        def arguments(path, scale):
            checkpoint = Checkpoint(path)
            if scale is not None:
                header, data = checkpoint.tensors()
                header[name] = {"dtype": "F32", "shape": [],
                                "data_offsets": [len(data), len(data) + 4]}
                checkpoint.set_tensors(header, data + struct.pack("<f", scale))
            return ("generate", "--model", path, "--token-ids", "1,2,3,4,5,6,7,8",
                    "--max-tokens", "16", "--ignore-eos", "--kv-cache-dtype", "fp8")

        def output(scale):
            with tempfile.TemporaryDirectory() as path:
                done = run(arguments(path, scale))
                self.assertEqual(done.returncode, 0, done.stderr)
                return done.stdout

        self.assertEqual(output(1.0), output(None))
        self.assertNotEqual(output(1e-6), output(None))  # latents are cut off at 448e-6
        for scale in (0.0, -1.0, float("inf"), float("nan")):
            with self.subTest(scale=scale), tempfile.TemporaryDirectory() as path:
                self.expect_refusal(arguments(path, scale), [name, "KV scale"])

    def test_tokenizers(self):
        for number, (spoil, words) in enumerate(TOKENIZERS):
            with self.subTest(number=number, words=words), tempfile.TemporaryDirectory() as path:
                spoil(Checkpoint(path, MODEL))
                self.expect_refusal((*SERVE, path, "--port", "0"), words)

    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.expect_refusal((*SERVE, MODEL, "--port", port),
                                [f"127.0.0.1:{port}", "in use"])

    def test_a_bad_line_is_named(self):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as tasks:
            tasks.write('{"prompt": "a", "answer": "b", "kind": "c"}\n{"prompt": 1}\n')
            tasks.flush()
            self.expect_refusal((*ACCURACY, "--model", MODEL, "--tasks", tasks.name),
                                [f"{tasks.name}:2", "prompt"])
            self.expect_refusal((*LOAD, "--concurrency", "1", "--prompts", tasks.name),
                                [f"{tasks.name}:2", "prompt"])

    @unittest.skipIf(os.geteuid() == 0, "root reads everything")
    def test_unreadable_files(self):
        for name in ("config.json", "model.safetensors"):
            with tempfile.TemporaryDirectory() as path:
                Checkpoint(path)
                os.chmod(Path(path, name), 0)
                self.expect_refusal(("generate", "--model", path, "--token-ids", "1"),
                                    [name, "Permission denied"])


CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]

# Route, body (bytes go as they are; a dict is laid over a good request), status, param.
REQUESTS = [
    (CHAT, b"", 400, None),
    (CHAT, b"{", 400, None),
    (CHAT, b"[]", 400, None),
    (CHAT, b'{"messages": [{"role": "user", "content": "\xff"}]}', 400, None),
    (CHAT, b'{"temperature": 1e999}', 400, None),
    (CHAT, DEEP.encode(), 400, None),
    (CHAT, b'{"x": "' + b"y" * (40 << 20) + b'"}', 413, None),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": "x " * 9000}]}, 400, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
     "messages[0].content"),
    (CHAT, {"max_token": 5}, 400, "max_token"),
    (CHAT, {"max_tokens": -1}, 400, "max_tokens"),
    (CHAT, {"max_tokens": 0}, 400, "max_tokens"),
    (CHAT, {"max_tokens": 10**30}, 400, "max_tokens"),
    (CHAT, {"max_tokens": 4097}, 400, "max_tokens"),
    (CHAT, {"max_tokens": 1.5}, 400, "max_tokens"),
    (CHAT, {"n": 0}, 400, "n"),
    (CHAT, {"n": 10**9}, 400, "n"),
    (CHAT, {"n": -2**63}, 400, "n"),
    (CHAT, {"temperature": -1}, 400, "temperature"),
    (CHAT, {"temperature": 1e308}, 400, "temperature"),
    (CHAT, {"top_p": 0}, 400, "top_p"),
    (CHAT, {"top_k": 2**62}, 400, "top_k"),
    (CHAT, {"stop": ["x"] * 1000}, 400, "stop"),
    (CHAT, {"stop_token_ids": [10**9]}, 400, "stop_token_ids"),
    (CHAT, {"logit_bias": {"1152": 1}}, 400, "logit_bias"),
    (CHAT, {"logprobs": True, "top_logprobs": 10**6}, 400, "top_logprobs"),
    (CHAT, {"tools": [{"type": "function"}]}, 400, "tools[0].function"),
    (CHAT, {"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "string", "pattern": "(?=a)b"}}}}, 400, "response_format"),
    (CHAT, {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, 400,
     "chat_template_kwargs.chat_template"),
    (CHAT, {"model": "gpt-4"}, 404, "model"),
    (TEXT, {"prompt": [-1]}, 400, "prompt"),
    (TEXT, {"prompt": [2**31]}, 400, "prompt"),
    (TEXT, {"prompt": [1] * 4096}, 400, "prompt"),
    (TEXT, {"prompt": ["x"] * 1000}, 400, "prompt"),
    (TEXT, {"prompt": "x", "nothing": 1}, 400, "nothing"),
    ("/tokenize", {"prompt": 7}, 400, "prompt"),
    ("/tokenize", {"prompt": "x", "nothing": 1}, 400, "nothing"),
    ("/detokenize", {"tokens": [1152]}, 400, "tokens"),
    ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
    ("/v1/embeddings", {"input": "x"}, 404, None),
]

# Bytes on a socket, and the status of the answer.
RAW = [
    (b"nonsense\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),  # a TLS client's hello
    (b"GET / HTTP/9.9\r\n\r\n", 400),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nA: " + b"b" * 1_000_000 + b"\r\n\r\n", 431),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 413),
    (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nGET /x HTTP/1.1\r\n\r\n", 501),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415),
    (b"DELETE /v1/models HTTP/1.1\r\n\r\n", 405),
    (b"GET /v1/models/%zz HTTP/1.1\r\n\r\n", 400),
    (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", 404),
    (b"GET /web/../../etc/passwd HTTP/1.1\r\n\r\n", 404),
]


class Requests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.served = Served(binary, "--model", str(MODEL))
        cls.address = urllib.parse.urlsplit(cls.served.url).netloc

    @classmethod
    def tearDownClass(cls):
        cls.served.__exit__()

    def post(self, route, body):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request("POST", route, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def expect_alive(self):
        status, answer = self.post(TEXT, json.dumps({"prompt": "x", "max_tokens": 1}))
        self.assertEqual((status, answer["usage"]["completion_tokens"]), (200, 1))

    def expect_error(self, answer, status):
        error = answer["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertNotIn("\n", error["message"])
        self.assertTrue(5 < len(error["message"]) < 500, error)
        if status < 500 and status != 401:
            self.assertEqual(error["type"], "invalid_request_error")
        return error

    def test_requests(self):
        good = {CHAT: {"messages": USER}, TEXT: {"prompt": "x"}}
        for route, fields, status, param in REQUESTS:
            body = fields
            if isinstance(fields, dict):
                body = json.dumps(good.get(route, {}) | fields)
            with self.subTest(route=route, body=str(fields)[:100]):
                got, answer = self.post(route, body)
                self.assertEqual(got, status, answer)
                error = self.expect_error(answer, status)
                self.assertEqual(error["param"], param, error)
                if param is not None and status == 400:
                    self.assertIn(param.split("[")[0].split(".")[0], error["message"])
                self.expect_alive()

    def test_bytes_that_are_no_request(self):
        for sent, status in RAW:
            with self.subTest(sent=sent[:80]):
                host, port = self.address.split(":")
                with socket.create_connection((host, int(port)), timeout=30) as client:
                    try:
                        client.sendall(sent)
                        client.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass  # the answer came first
                    answer = b"".join(iter(lambda: client.recv(65536), b""))
                head, _, body = answer.partition(b"\r\n\r\n")
                self.assertEqual(head.split(b" ")[1], str(status).encode(), answer)
                self.expect_error(json.loads(body), status)
                self.expect_alive()


if __name__ == "__main__":
    unittest.main(verbosity=2)
