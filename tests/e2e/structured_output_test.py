"""Answers held to a schema, with the openai client: at temperature 1 all of them are valid by Python's
jsonschema, and greedy answers beside them are what they are alone.

Usage: structured_output_test.py PATH_OF_DEEPFLIGHT [NUM_OUTPUTS]   (from the repository's root)
"""
import concurrent.futures
import json
import sys
import unittest

import jsonschema
import openai

from serving import Served

binary = sys.argv.pop(1) if len(sys.argv) > 1 else "build/cpu/deepflight"
num_outputs = int(sys.argv.pop(1)) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 500

# All of them bounded, so that an answer comes to its end before max_tokens.
SCHEMAS = [
    {"type": "object", "properties": {
        "answer": {"type": "integer"}, "sure": {"type": "boolean"}},
     "required": ["answer", "sure"], "additionalProperties": False},
    {"type": "object", "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "mail": {"type": "string", "format": "email"}},
     "required": ["name", "age"], "additionalProperties": False},
    {"type": "array", "items": {"enum": ["red", "green", "blue", 7, None]}, "minItems": 1,
     "maxItems": 4},
    {"type": "object", "properties": {
        "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
        "when": {"type": "string", "format": "date-time"},
        "kind": {"const": "event"}},
     "required": ["id", "when", "kind"], "additionalProperties": False},
    {"anyOf": [{"type": "object", "properties": {"ok": {"const": True}}, "required": ["ok"],
                "additionalProperties": False},
               {"type": "object", "properties": {"error": {"type": "string", "maxLength": 10}},
                "required": ["error"], "additionalProperties": False},
               {"type": "null"}]},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {
        "type": "object",
        "properties": {"value": {"type": "integer", "minimum": -9, "maximum": 9},
                       "children": {"type": "array", "items": {"$ref": "#/$defs/leaf"},
                                    "maxItems": 2}},
        "required": ["value", "children"], "additionalProperties": False},
        "leaf": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}}},
    {"type": "object", "properties": {"a": {"type": "array", "prefixItems": [
        {"type": "string", "maxLength": 3}, {"type": "boolean"}], "items": False, "minItems": 2},
        "b": {"type": "integer", "multipleOf": 5, "maximum": 500, "minimum": 0}},
     "required": ["a", "b"], "additionalProperties": False},
]


def response_format(schema):
    return {"type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True}}


class StructuredOutput(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.served = Served(binary, "--model", "models/tiny-r1").__enter__()
        cls.client = openai.OpenAI(base_url=f"{cls.served.url}/v1", api_key="none", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.served.__exit__()

    def ask(self, question, **fields):
        return self.client.chat.completions.create(
            model="tiny-r1", messages=[{"role": "user", "content": question}], **fields)

    def test_every_output_is_valid_and_its_neighbours_are_untouched(self):
        greedy = [f"What is {100 + 13 * i} + {900 - 7 * i}?" for i in range(12)]
        alone = [self.ask(q, temperature=0).choices[0].message.model_dump_json() for q in greedy]
        lengths, invalid = [], []

        def structured(i):
            schema = SCHEMAS[i % len(SCHEMAS)]
            thinks = i % 3 > 0  # without it the document comes at once
            answer = self.ask(f"What is {i} + 5? Answer in JSON.", temperature=1, seed=i, n=2,
                              max_tokens=2500, response_format=response_format(schema),
                              extra_body={} if thinks else
                              {"chat_template_kwargs": {"thinking": False}})
            for choice in answer.choices:
                try:
                    document = json.loads(choice.message.content)
                    jsonschema.validate(document, schema,
                                        cls=jsonschema.Draft202012Validator)
                    assert choice.finish_reason == "stop", choice.finish_reason
                except Exception as problem:  # all of them at once say more than the first
                    invalid.append((i, choice.finish_reason, choice.message.content, str(problem)))
            lengths.append(answer.usage.completion_tokens)

        with concurrent.futures.ThreadPoolExecutor(48) as pool:
            running = [pool.submit(structured, i) for i in range(num_outputs // 2)]
            beside = [pool.submit(lambda q: self.ask(q, temperature=0).choices[0].message
                                  .model_dump_json(), q) for q in greedy * 2]
            for task in running:
                task.result()
            self.assertEqual([task.result() for task in beside], alone * 2)
        self.assertEqual(invalid, [])
        print(f"{2 * len(running)} outputs of {len(SCHEMAS)} schemas valid, "
              f"{sum(lengths)} tokens")

    def test_streams_carry_the_same(self):
        fields = dict(temperature=1, seed=3, response_format=response_format(SCHEMAS[1]))
        whole = self.ask("Who are you?", **fields).choices[0].message.content
        parts = [chunk.choices[0].delta.content or ""
                 for chunk in self.ask("Who are you?", stream=True, **fields) if chunk.choices]
        self.assertEqual("".join(parts), whole)
        jsonschema.validate(json.loads(whole), SCHEMAS[1])

    def test_logprobs_stop_and_penalties_go_along(self):
        answer = self.ask("What is 2 + 3?", temperature=1, seed=1, logprobs=True, top_logprobs=2,
                          frequency_penalty=0.5, response_format=response_format(SCHEMAS[0]))
        choice = answer.choices[0]
        jsonschema.validate(json.loads(choice.message.content), SCHEMAS[0])
        self.assertEqual(len(choice.logprobs.content), answer.usage.completion_tokens)
        stopped = self.ask("What is 2 + 3?", temperature=1, seed=1, stop=['"sure"'],
                           response_format=response_format(SCHEMAS[0])).choices[0]
        self.assertEqual(stopped.finish_reason, "stop")
        self.assertNotIn("sure", stopped.message.content)

    def test_json_object(self):
        for seed in range(3):
            choice = self.ask("What is 2 + 3?", temperature=1, seed=seed, max_tokens=600,
                              response_format={"type": "json_object"}).choices[0]
            if choice.finish_reason == "stop":
                self.assertIsInstance(json.loads(choice.message.content), dict)
            else:
                self.assertEqual(choice.finish_reason, "length")

    def test_completions(self):
        answer = self.client.completions.create(
            model="tiny-r1", prompt="{", temperature=1, seed=4, max_tokens=400,
            extra_body={"response_format": response_format(SCHEMAS[2])})
        jsonschema.validate(json.loads(answer.choices[0].text), SCHEMAS[2])

    def test_required_and_named_calls(self):
        tools = [{"type": "function", "function": {"name": f"tool_{i}", "parameters": schema}}
                 for i, schema in enumerate([SCHEMAS[0], SCHEMAS[1], SCHEMAS[3]])]
        by_name = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        named = {"type": "function", "function": {"name": "tool_1"}}
        for seed in range(8):
            for choice in ("required", named):
                message = self.ask("What is 2 + 3?", temperature=1, seed=seed, tools=tools,
                                   tool_choice=choice, parallel_tool_calls=False,
                                   max_tokens=1000).choices[0].message
                self.assertEqual(len(message.tool_calls), 1)
                call = message.tool_calls[0].function
                jsonschema.validate(json.loads(call.arguments), by_name[call.name])
                if choice is named:
                    self.assertEqual(call.name, "tool_1")

    def test_what_cannot_be_held_is_refused(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask("Hi", response_format=response_format({"type": "object", "minProperties": 1}))
        self.assertEqual(caught.exception.param, "response_format")
        self.assertIn('"minProperties" is not supported', str(caught.exception))


class SmallPool(unittest.TestCase):
    def test_preempted_outputs_are_valid_too(self):
        # Pages for three long answers or so.
        with Served(binary, "--model", "models/tiny-r1", "--max-model-len", "1024",
                    "--kv-cache-mib", "36") as served:
            client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)

            def structured(i):
                schema = SCHEMAS[i % len(SCHEMAS)]
                choice = client.chat.completions.create(
                    model="tiny-r1", messages=[{"role": "user", "content": f"What is {i} * 31?"}],
                    temperature=1, seed=i, max_tokens=900,
                    response_format=response_format(schema)).choices[0]
                if choice.finish_reason == "stop":
                    jsonschema.validate(json.loads(choice.message.content), schema)
                return choice.finish_reason

            with concurrent.futures.ThreadPoolExecutor(24) as pool:
                reasons = list(pool.map(structured, range(24)))
            self.assertGreater(reasons.count("stop"), 20, reasons)


if __name__ == "__main__":
    unittest.main(verbosity=2)
