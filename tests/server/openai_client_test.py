"""Python's openai client, unchanged, against the API: answers, streams, usage, logprobs, errors,
disconnects, drain.

Usage: openai_client_test.py PATH_OF_ECHO_SERVER
"""
import signal
import subprocess
import sys
import threading
import time
import unittest

import openai

binary = sys.argv.pop(1) if len(sys.argv) > 1 else "build/cpu/tests/echo_server"
REASONING = "I repeat what I am told."
TEXT = "Grüße, 世界! 🚀"
HI = [{"role": "user", "content": "hi"}]


class EchoServer:
    def __init__(self, *flags):
        self.process = subprocess.Popen([binary, *flags], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.client = openai.OpenAI(base_url=line.split()[-1] + "/v1", api_key="none",
                                    max_retries=0, timeout=20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.stdout.close()


class WithServer(unittest.TestCase):
    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.server = EchoServer(*cls.flags)
        cls.client = cls.server.client

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def chat(self, text="hi", **fields):
        return self.client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": text}], **fields)

    def complete(self, prompt="hi", **fields):
        fields.setdefault("max_tokens", 100)
        return self.client.completions.create(model="echo", prompt=prompt, **fields)


class Chat(WithServer):
    def test_answer(self):
        answer = self.chat(TEXT)
        message = answer.choices[0].message
        self.assertEqual(message.role, "assistant")
        self.assertEqual(message.content, TEXT)
        self.assertEqual(message.reasoning_content, REASONING)
        self.assertEqual(message.reasoning, REASONING)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.model, "echo")
        self.assertLess(abs(answer.created - time.time()), 60)

    def test_usage(self):
        usage = self.chat("hi").usage
        self.assertEqual(usage.prompt_tokens, 7)
        self.assertEqual(usage.completion_tokens, len(REASONING) + 1 + 2 + 2 + 1)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertEqual(usage.prompt_tokens_details.cached_tokens, 0)
        self.assertEqual(usage.completion_tokens_details.reasoning_tokens, len(REASONING) + 1)

    def test_parts_roles_and_turns(self):
        answer = self.client.chat.completions.create(model="echo", messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": [{"type": "text", "text": "th"},
                                         {"type": "text", "text": "ree"}]}])
        self.assertEqual(answer.choices[0].message.content, "three")

    def test_stream(self):
        reasoning, content, reasons, roles = "", "", [], []
        for chunk in self.chat(TEXT, stream=True):
            self.assertEqual(len(chunk.choices), 1)
            self.assertIsNone(chunk.usage)
            self.assertEqual(chunk.object, "chat.completion.chunk")
            delta = chunk.choices[0].delta
            content += delta.content or ""
            reasoning += getattr(delta, "reasoning_content", None) or ""
            roles.append(delta.role)
            reasons.append(chunk.choices[0].finish_reason)
        self.assertEqual((reasoning, content), (REASONING, TEXT))
        self.assertEqual(roles, ["assistant"] + [None] * (len(roles) - 1))
        self.assertEqual(reasons, [None] * (len(reasons) - 1) + ["stop"])

    def test_tools(self):
        tools = [{"type": "function", "function": {
            "name": "get_weather", "description": "Weather of a place.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
        arguments = '{"city": "Zürich"}'
        text = ("Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
                f"{arguments}<｜tool▁call▁end｜><｜tool▁calls▁end｜>")
        choice = self.chat(text, tools=tools).choices[0]
        self.assertEqual(choice.finish_reason, "tool_calls")
        self.assertEqual(choice.message.content, "Let me look.")
        call = choice.message.tool_calls[0]
        self.assertEqual((call.type, call.function.name), ("function", "get_weather"))
        self.assertEqual(call.function.arguments, arguments)
        # The client's own accumulation of a stream.
        with self.client.chat.completions.stream(
                model="echo", messages=[{"role": "user", "content": text}], tools=tools) as stream:
            final = stream.get_final_completion().choices[0]
        self.assertEqual(final.finish_reason, "tool_calls")
        self.assertEqual(final.message.tool_calls[0].function.arguments, arguments)
        # The call and its answer go back in.
        answer = self.client.chat.completions.create(model="echo", tools=tools, messages=[
            {"role": "user", "content": "weather?"},
            choice.message,
            {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}])
        self.assertEqual(answer.choices[0].message.content, "18 degrees")
        self.assertIsNone(answer.choices[0].message.tool_calls)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat("x", tool_choice="required")
        self.assertEqual(caught.exception.param, "tool_choice")

    def test_stream_usage(self):
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, len(REASONING) + 6)
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))
        chunks = list(self.chat(stream=True, stream_options={"continuous_usage_stats": True}))
        counts = [chunk.usage.completion_tokens for chunk in chunks]
        self.assertEqual(counts, list(range(1, len(chunks) + 1)))

    def test_several_choices(self):
        answer = self.chat(n=3)
        self.assertEqual([c.message.content for c in answer.choices], ["hi", "hi (1)", "hi (2)"])
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2])
        texts = ["", ""]
        for chunk in self.chat(n=2, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        self.assertEqual(texts, ["hi", "hi (1)"])

    def test_stop_and_length(self):
        answer = self.chat("count: one two three", stop=[" two", "zzz"])
        self.assertEqual(answer.choices[0].message.content, "count: one")
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        answer = self.chat(max_completion_tokens=4)
        self.assertEqual(answer.choices[0].message.reasoning_content, REASONING[:4].rstrip())
        self.assertEqual(answer.choices[0].message.content, "")
        self.assertEqual(answer.choices[0].finish_reason, "length")
        answer = self.chat(max_tokens=60, extra_body={"ignore_eos": True})
        self.assertEqual(answer.usage.completion_tokens, 60)

    def test_logprobs(self):
        answer = self.chat("é", logprobs=True, top_logprobs=2)
        entries = answer.choices[0].logprobs.content
        self.assertEqual(len(entries), answer.usage.completion_tokens)
        self.assertEqual(entries[0].token, "I")
        self.assertEqual(entries[0].bytes, [ord("I")])
        self.assertEqual([t.token for t in entries[0].top_logprobs], ["I", "J"])
        self.assertAlmostEqual(entries[0].logprob, -0.25)
        text = bytes(b for entry in entries for b in entry.bytes)
        self.assertIn("é".encode(), text)
        chunks = list(self.chat(logprobs=True, stream=True))
        self.assertEqual(chunks[0].choices[0].logprobs.content[0].token, "I")

    def test_extensions(self):
        answer = self.chat(extra_body={"chat_template_kwargs": {"thinking": False}})
        self.assertEqual(answer.choices[0].message.content, "hi")
        self.assertIsNone(answer.choices[0].message.reasoning_content)
        answer = self.chat(extra_body={"separate_reasoning": False})
        self.assertEqual(answer.choices[0].message.content, REASONING + "</think>\n\nhi")
        answer = self.chat(extra_body={"return_token_ids": True, "top_k": 5, "min_p": 0.1,
                                       "repetition_penalty": 1.1, "stop_token_ids": [1],
                                       "min_tokens": 1, "cache_salt": "a"},
                           seed=1, user="u", logit_bias={"5": 1}, presence_penalty=0.5)
        self.assertEqual(len(answer.prompt_token_ids), 7)


class Completions(WithServer):
    def test_answer_and_usage(self):
        answer = self.complete(TEXT)
        self.assertEqual(answer.choices[0].text, TEXT)
        self.assertEqual(answer.object, "text_completion")
        self.assertTrue(answer.id.startswith("cmpl-"))
        self.assertEqual(answer.usage.prompt_tokens, len(TEXT.encode()) + 1)
        self.assertEqual(answer.usage.completion_tokens, len(TEXT.encode()) + 1)

    def test_prompt_forms(self):
        def texts(prompt):
            return [choice.text for choice in self.complete(prompt).choices]
        self.assertEqual(texts(["a", "b"]), ["a", "b"])
        self.assertEqual(texts([104, 105]), ["hi"])
        self.assertEqual(texts([[104], [105]]), ["h", "i"])

    def test_default_length(self):
        answer = self.client.completions.create(model="echo", prompt="x" * 50)
        self.assertEqual(answer.usage.completion_tokens, 16)
        self.assertEqual(answer.choices[0].finish_reason, "length")

    def test_stream_echo_and_choices(self):
        text = "".join(c.choices[0].text for c in self.complete("hi!", stream=True, echo=True))
        self.assertEqual(text, "hi!hi!")
        answer = self.complete(["a", "b"], n=2)
        self.assertEqual([c.text for c in answer.choices], ["a", "a (1)", "b", "b (1)"])

    def test_logprobs(self):
        logprobs = self.complete("aé", logprobs=2).choices[0].logprobs
        self.assertEqual(logprobs.tokens[0], "a")
        self.assertEqual(logprobs.text_offset, [0, 1, 2, 2])
        self.assertEqual(len(logprobs.top_logprobs[0]), 2)
        self.assertAlmostEqual(logprobs.token_logprobs[0], -0.25)


class Errors(WithServer):
    def assert_refused(self, param, call, code=None):
        with self.assertRaises(openai.BadRequestError) as caught:
            call()
        self.assertEqual(caught.exception.param, param)
        self.assertEqual(caught.exception.code, code)
        self.assertEqual(caught.exception.type, "invalid_request_error")
        self.assertIn(param.split("[")[0], str(caught.exception))

    def test_bad_fields_are_named(self):
        for param, fields in {"temperature": {"temperature": 3}, "top_p": {"top_p": 0},
                              "n": {"n": 0}, "max_tokens": {"max_tokens": -1},
                              "logit_bias": {"logit_bias": {"99999": 1}},
                              "top_logprobs": {"logprobs": True, "top_logprobs": 21},
                              "top_k": {"extra_body": {"top_k": "many"}}}.items():
            self.assert_refused(param, lambda f=fields: self.chat(**f))
            if "logprobs" not in fields:
                self.assert_refused(param, lambda f=fields: self.complete(**f))
        self.assert_refused("temperature", lambda: self.chat(temperature=3, stream=True))
        self.assert_refused("messages", lambda: self.client.chat.completions.create(
            model="echo", messages=[]))

    def test_what_is_not_supported_yet(self):
        self.assert_refused("guided_regex",
                            lambda: self.chat(extra_body={"guided_regex": "a+"}),
                            "unsupported_parameter")
        schema = {"type": "object", "not": {}}
        self.assert_refused("response_format", lambda: self.chat(response_format={
            "type": "json_schema", "json_schema": {"name": "n", "schema": schema}}))
        image = [{"type": "image_url", "image_url": {"url": "http://x"}}]
        self.assert_refused("messages[0].content", lambda: self.chat(image),
                            "unsupported_parameter")

    def test_context_length(self):
        self.assert_refused("messages", lambda: self.chat("x" * 5000), "context_length_exceeded")
        self.assert_refused("max_tokens", lambda: self.chat(max_tokens=4096),
                            "context_length_exceeded")

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["echo"])
        self.assertEqual(self.client.models.retrieve("echo").owned_by, "deepflight")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("other")
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.chat.completions.create(model="other", messages=HI)
        self.assertEqual(caught.exception.code, "model_not_found")
        self.assertEqual(caught.exception.param, "model")

    def test_request_id(self):
        raw = self.client.chat.completions.with_raw_response.create(
            model="echo", messages=HI, extra_headers={"X-Request-Id": "mine"})
        self.assertEqual(raw.headers["x-request-id"], "mine")
        self.assertTrue(self.chat()._request_id.startswith("chatcmpl-"))


class Slow(WithServer):
    flags = ("--token-us", "2000")

    def test_leaving_a_stream_cancels_the_request(self):
        stream = self.chat("x" * 500, stream=True, extra_body={"ignore_eos": True})
        first = next(iter(stream))
        stream.close()
        lines = []
        reader = threading.Thread(target=lambda: lines.append(self.server.process.stdout.readline()))
        reader.start()
        reader.join(10)
        self.assertEqual(lines, [f"cancelled {first.id}\n"])

    def test_stream_arrives_as_it_is_made(self):
        arrivals = []
        for _ in self.chat("y" * 100, stream=True):
            arrivals.append(time.monotonic())
        self.assertGreater(arrivals[-1] - arrivals[0], 0.1)

    def test_sigterm_finishes_what_was_accepted(self):
        with EchoServer("--token-us", "3000") as server:
            stream = server.client.chat.completions.create(
                model="echo", messages=[{"role": "user", "content": "z" * 100}], stream=True)
            chunks = iter(stream)
            next(chunks)
            server.process.send_signal(signal.SIGTERM)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            self.assertEqual(text, "z" * 100)
            self.assertEqual(server.process.wait(10), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
