"""LangChain's ChatOpenAI, unchanged, against the API: answers, streams, usage, tools, errors.

Usage: langchain_client_test.py PATH_OF_ECHO_SERVER
"""
import sys
import unittest

import openai
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from openai_client_test import REASONING, EchoServer

CALL = ("Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>"
        '{"a": 2, "b": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>')


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


class LangChain(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = EchoServer()
        cls.model = ChatOpenAI(model="echo", base_url=str(cls.server.client.base_url),
                               api_key="none", max_retries=0, temperature=0)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def test_answer_and_usage(self):
        answer = self.model.invoke("Grüße")
        self.assertEqual(answer.content, "Grüße")
        self.assertEqual(answer.response_metadata["finish_reason"], "stop")
        self.assertGreater(answer.usage_metadata["output_tokens"], len(REASONING))

    def test_stream(self):
        whole = None
        for chunk in self.model.stream("Grüße", stream_usage=True):
            whole = chunk if whole is None else whole + chunk
        self.assertEqual(whole.content, "Grüße")
        self.assertGreater(whole.usage_metadata["input_tokens"], 0)

    def test_batch(self):
        answers = self.model.batch([f"number {i}" for i in range(20)])
        self.assertEqual([answer.content for answer in answers], [f"number {i}" for i in range(20)])

    def test_tools(self):
        model = self.model.bind_tools([add])
        answer = model.invoke(CALL)
        self.assertEqual(answer.content, "Let me look.")
        self.assertEqual([(call["name"], call["args"]) for call in answer.tool_calls],
                         [("add", {"a": 2, "b": 3})])
        streamed = None
        for chunk in model.stream(CALL):
            streamed = chunk if streamed is None else streamed + chunk
        self.assertEqual(streamed.tool_calls[0]["args"], {"a": 2, "b": 3})
        result = add.invoke(answer.tool_calls[0])
        self.assertIsInstance(result, ToolMessage)
        last = model.invoke([HumanMessage("2 + 3?"), answer, result])
        self.assertIsInstance(last, AIMessage)
        self.assertEqual(last.content, "5")

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError):
            self.model.invoke("x", max_tokens=0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
