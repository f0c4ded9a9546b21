"""The web page in a headless Chromium, against models/tiny-r1: chat, stop, errors, the engine's
view, the key; at a desk's width and a phone's. Leaves screenshots in the second argument's folder.
Exits with 77 (skipped) where there is no Chromium.

Usage: web_page_test.py PATH_OF_DEEPFLIGHT FOLDER   (from the repository's root)
With DF_PAGE_LOAD_S=100 its chat.png and engine.png are those of docs/images.
"""
import json
import os
import sys
import threading
import time
import unittest
import urllib.request

from chromium import Chromium, find_chromium
from serving import Served

SKIPPED = 77
# How long the engine's view is watched under load before its picture is taken.
LOAD_S = float(os.environ.get("DF_PAGE_LOAD_S", "5"))
DESK, PHONE = (1100, 760), (360, 740)

folder = sys.argv.pop(2) if len(sys.argv) > 2 else "build/cpu/web_page"
binary = sys.argv.pop(1) if len(sys.argv) > 1 else "build/cpu/deepflight"

LAST = "[...document.querySelectorAll('.answer')].at(-1)"
DONE = f"{LAST}?.getAttribute('aria-busy') === 'false'"


def tile(title):
    return f"document.querySelector('[data-title=\"{title}\"] .value').textContent"


# Several pages long, so that all but the first of those who send it find it in the prefix cache.
PREFACE = " ".join(f"{i} + {i + 1} = {2 * i + 1}." for i in range(20, 50))


class Load:
    """Long answers, a few at a time, until the block is left."""

    def __init__(self, url, clients=6):
        self.url = url
        self.stopped = False
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]

    def _run(self, i):
        num = 0
        while not self.stopped:
            num += 1
            question = f"What is {100 + i} + {num}?"
            body = {"max_tokens": 60 + 40 * ((i + num) % 4), "ignore_eos": True, "messages": [
                {"role": "user", "content": f"{PREFACE if num % 3 else ''} {question}"}]}
            request = urllib.request.Request(f"{self.url}/v1/chat/completions",
                                             json.dumps(body).encode(),
                                             {"Content-Type": "application/json"})
            urllib.request.urlopen(request).close()
            time.sleep(0.6 * i if num % 4 == 0 else 0)

    def __enter__(self):
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_):
        self.stopped = True
        for thread in self.threads:
            thread.join()


class PageTest(unittest.TestCase):
    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.served = cls.enterClassContext(
            Served(binary, "--model", "models/tiny-r1", *cls.flags))
        cls.page = cls.enterClassContext(Chromium())

    def setUp(self):
        self.page.resize(*DESK)
        self.page.open("about:blank")
        self.page.open(f"{self.served.url}/")

    def tearDown(self):
        self.assertEqual(self.page.errors, [])

    def ask(self, question):
        self.page.run("document.getElementById('temperature').value = 0")
        self.page.run("document.getElementById('input').focus()")
        self.page.type(question)
        self.page.enter()

    def answer_to(self, question):
        num = self.page.run("document.querySelectorAll('.answer').length")
        self.ask(question)
        self.page.wait_for(f"document.querySelectorAll('.answer').length === {num + 1}")
        self.page.wait_for(DONE)
        return self.page.run(f"{LAST}.querySelector('.body').textContent")

    def assert_fits(self):
        self.assertTrue(self.page.run("document.documentElement.scrollWidth <= innerWidth"))

    def screenshot(self, name):
        self.page.screenshot(f"{folder}/{name}.png")


class Chat(PageTest):
    def test_an_answer_with_its_thinking(self):
        page = self.page
        page.wait_for("document.getElementById('model').textContent === 'tiny-r1'")
        self.screenshot("welcome")
        # What the details looked like on the way.
        page.run("""window.seen = []; new MutationObserver(() => {
            const details = [...document.querySelectorAll('.thinking:not([hidden])')].at(-1);
            if (details) seen.push([details.open, details.querySelector('.thought').textContent]);
          }).observe(document.getElementById('log'), {subtree: true, childList: true,
                                                      attributes: true, characterData: true})""")
        self.assertIn("42", self.answer_to("What is 12 + 30?"))
        self.assertFalse(page.run(f"{LAST}.querySelector('.thinking').open"))
        self.assertGreater(len(page.run(f"{LAST}.querySelector('.thought').textContent")), 20)
        figures = page.run(f"{LAST}.querySelector('.figures').textContent")
        self.assertRegex(figures, r"^first token .+ · \d+ tokens/s · \d+ tokens, \d+ of them "
                                  r"thinking · prompt \d+")
        # Former turns are sent along, and the keyboard opens the thinking.
        self.assertEqual(self.answer_to("What is 347 + 586?").strip(), "933")
        self.assertGreater(page.run("seen.filter(([open, text]) => open && text).length"), 1)
        page.run(f"{LAST}.querySelector('summary').focus()")
        page.enter()
        self.assertTrue(page.run(f"{LAST}.querySelector('.thinking').open"))
        page.run("document.activeElement.blur()")
        page.resize(DESK[0], 810)
        self.screenshot("chat")
        page.dark(True)
        self.screenshot("chat_dark")
        page.dark(False)
        page.resize(*PHONE)
        self.assert_fits()
        self.screenshot("chat_phone")
        page.run("document.getElementById('new-chat').click()")
        self.assertEqual(page.run("document.querySelectorAll('article').length"), 0)
        self.screenshot("welcome_phone")
        self.assert_fits()

    def test_shift_enter_starts_a_line(self):
        self.page.run("document.getElementById('input').focus()")
        self.page.type("a")
        self.page.enter(shift=True)
        self.page.type("b")
        self.assertEqual(self.page.run("document.getElementById('input').value"), "a\nb")
        self.assertEqual(self.page.run("document.querySelectorAll('article').length"), 0)

    def test_stop(self):
        self.page.run("""window.stopper = new MutationObserver(() => {
            if (!document.querySelector('.thinking:not([hidden])')) return;
            stopper.disconnect();
            document.getElementById('stop').click();
          }); stopper.observe(document.getElementById('log'),
                              {subtree: true, childList: true, attributes: true})""")
        self.answer_to("Sort 41, 7, 23, 98, 55 and 12.")
        self.assertRegex(self.page.run(f"{LAST}.querySelector('.figures').textContent"),
                         "^stopped · first token")
        self.assertTrue(self.page.run("document.getElementById('stop').hidden"))
        self.assertEqual(self.page.run("document.querySelectorAll('.error').length"), 0)
        self.assertIn("42", self.answer_to("What is 12 + 30?"))

    def test_errors_are_one_line(self):
        self.page.run("document.getElementById('max-tokens').value = 1000000")
        self.answer_to("Hello")
        error = self.page.run(f"{LAST}.querySelector('.error').textContent")
        self.assertIn("4096", error)
        self.assertNotIn("\n", error)
        self.screenshot("error")
        # The question is back, to be sent again.
        self.assertEqual(self.page.run("document.getElementById('input').value"), "Hello")
        self.page.run("document.getElementById('max-tokens').value = ''")
        self.page.offline(True)
        self.answer_to("")
        self.assertEqual(self.page.run(f"{LAST}.querySelector('.error').textContent"),
                         "The server is not reachable.")
        self.page.offline(False)
        self.page.run("document.getElementById('input').value = ''")
        self.assertIn("42", self.answer_to("What is 12 + 30?"))

    def test_what_the_model_writes_is_text(self):
        def stream():
            deltas = [{"reasoning": "<b>hm</b>"},
                      {"content": "# Title\n<img src=x onerror=alert(1)>\n**bold** `x<y`\n"},
                      {"content": "```c\nif (a < b) return;\n\n```\nend"}]
            chunks = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
            chunks.append({"choices": [{"delta": {}, "finish_reason": "length"}]})
            return ("text/event-stream",
                    "".join(f": note\r\ndata: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks) +
                    "data: [DONE]\n\n")

        self.page.answer("/v1/chat/completions", stream)
        self.answer_to("Anything")
        self.assertEqual(self.page.run(f"{LAST}.querySelector('.thought').textContent"),
                         "<b>hm</b>")
        body = self.page.run(f"[...{LAST}.querySelector('.body').children]"
                             ".map((node) => [node.tagName, node.textContent])")
        self.assertEqual(body, [["H3", "Title"],
                                ["P", "<img src=x onerror=alert(1)>\nbold x<y"],
                                ["PRE", "if (a < b) return;\n"], ["P", "end"]])
        self.assertEqual(self.page.run(f"{LAST}.querySelectorAll('img, b').length"), 0)
        self.assertEqual(self.page.run(f"{LAST}.querySelectorAll('strong, p > code').length"), 2)
        self.assertIn("token limit", self.page.run(f"{LAST}.querySelector('.figures').textContent"))

        self.page.answer("/v1/chat/completions", lambda: (
            "text/event-stream", 'data: {"error": {"message": "the step\\nfailed"}}\n\n'))
        self.answer_to("Anything")
        self.assertEqual(self.page.run(f"{LAST}.querySelector('.error').textContent"),
                         "the step failed")
        self.page.answer("/v1/chat/completions", lambda: ("text/event-stream", "data: {}\n\n"))
        self.page.run("document.getElementById('input').value = ''")
        self.answer_to("Anything")
        self.assertIn("cut", self.page.run(f"{LAST}.querySelector('.error').textContent"))
        self.page.answer("/v1/chat/completions", None)


class Engine(PageTest):
    flags = ("--max-num-seqs", "4", "--kv-cache-mib", "64")

    def open_engine(self):
        self.page.run("document.getElementById('tab-engine').click()")
        self.page.wait_for(f"{tile('Running')} !== '–'")

    def test_load_shows(self):
        page = self.page
        self.open_engine()
        self.assertTrue(page.run("document.getElementById('chat').hidden"))
        totals = "document.getElementById('totals').textContent"
        before = page.run(totals)
        with Load(self.served.url):
            page.wait_for(f"Number({tile('Running')}) > 0")
            page.wait_for(f"Number({tile('Waiting')}) > 0")
            page.wait_for(f"parseFloat({tile('Prompt tokens/s')}) > 0")
            page.wait_for(f"parseFloat({tile('KV cache used')}) > 0")
            page.wait_for(f"parseFloat({tile('Prefix hits')}) >= 0")
            time.sleep(LOAD_S)
            page.resize(DESK[0], 600)
            self.screenshot("engine")
            page.dark(True)
            self.screenshot("engine_dark")
            page.dark(False)
            page.resize(*PHONE)
            self.assert_fits()
            self.screenshot("engine_phone")
        self.assertNotEqual(page.run(totals), before)
        self.assertGreater(page.run("document.querySelector('.tile .line').getAttribute('d')"
                                    ".split('L').length"), 3)
        page.wait_for(f"{tile('Running')} === '0'")

    def test_the_tabs_by_keyboard_and_address(self):
        self.page.run("document.getElementById('tab-chat').focus()")
        self.page.press("ArrowRight", 39)
        self.assertFalse(self.page.run("document.getElementById('engine').hidden"))
        self.assertEqual(self.page.run("document.activeElement.id"), "tab-engine")
        self.page.call("Page.reload")
        self.page.wait_for("document.getElementById('engine')?.hidden === false")

    def test_a_lost_server_is_told_and_found_again(self):
        self.open_engine()
        state = "document.getElementById('engine-state')"
        self.page.offline(True)
        self.page.wait_for(f"!{state}.hidden && {state}.textContent.includes('not reachable')")
        self.screenshot("engine_offline")
        self.page.offline(False)
        self.page.wait_for(f"{state}.hidden")

    def test_a_hidden_tab_asks_for_nothing(self):
        self.open_engine()
        polls = "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/metrics'))"
        hide = ("Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}});"
                "document.dispatchEvent(new Event('visibilitychange'))")
        self.page.run(hide.format("true"))
        time.sleep(0.5)
        num = self.page.run(f"{polls}.length")
        time.sleep(2.5)
        self.assertEqual(self.page.run(f"{polls}.length"), num)
        self.page.run(hide.format("false"))
        self.page.wait_for(f"{polls}.length > {num + 1}")

    def test_the_names_of_vllm(self):
        polls = []

        def metrics():
            polls.append(time.monotonic())
            seconds = polls[-1] - polls[0]
            label = '{model_name="a b",engine="0"}'
            values = {"num_requests_running": 7, "num_requests_waiting": 3,
                      "kv_cache_usage_perc": 0.25, "prefix_cache_queries_total": 1000 * seconds,
                      "prefix_cache_hits_total": 400 * seconds,
                      "prompt_tokens_total": 1000 * seconds,
                      "generation_tokens_total": 50 * seconds,
                      "time_to_first_token_seconds_sum": 0.4 * seconds,
                      "time_to_first_token_seconds_count": 2 * seconds,
                      "inter_token_latency_seconds_sum": 0.5 * seconds,
                      "inter_token_latency_seconds_count": 50 * seconds}
            return "text/plain", "".join(f"# TYPE vllm:{name} gauge\nvllm:{name}{label} {value}\n"
                                         for name, value in values.items())

        self.page.answer("/metrics", metrics)
        self.open_engine()
        for title, expected in {"Running": "7", "Waiting": "3", "KV cache used": "25 %",
                                "Prefix hits": "40 %", "Time to first token": "200 ms",
                                "Time per token": "10 ms"}.items():
            self.page.wait_for(f"{tile(title)} === '{expected}'")
        self.page.wait_for(f"parseFloat({tile('Output tokens/s')}) > 20")
        self.page.answer("/metrics", None)


class Key(PageTest):
    flags = ("--api-key", "s3cret")

    def test_the_page_asks_for_the_key(self):
        page = self.page
        page.wait_for("document.getElementById('key-dialog').open")
        self.screenshot("key")
        for key, expected in (("wrong", "document.getElementById('key-dialog').open"),
                              ("s3cret", "document.getElementById('model').textContent")):
            page.run("document.getElementById('key-input').focus()")
            page.type(key)
            page.enter()
            time.sleep(0.2)
            page.wait_for(expected)
            if key == "wrong":
                self.assertIn("not accept",
                              page.run("document.getElementById('key-hint').textContent"))
        self.assertIn("42", self.answer_to("What is 12 + 30?"))
        page.call("Page.reload")
        page.wait_for("document.getElementById('model')?.textContent === 'tiny-r1'")
        self.assertEqual(page.run("localStorage.length"), 0)


if __name__ == "__main__":
    if not find_chromium():
        print("skipped: no Chromium here (script/bootstrap --test installs one)")
        sys.exit(SKIPPED)
    os.makedirs(folder, exist_ok=True)
    unittest.main(verbosity=2)
