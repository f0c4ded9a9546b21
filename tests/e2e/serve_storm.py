"""A storm of requests against a running server: nothing may fail, leak or be miscounted.

Usage: serve_storm.py --url http://127.0.0.1:8000 [--clients 256] [--seconds 300] [--pid PID] [--drain]

Each client sends one /v1/completions request after the other: prompts of random token ids, some with
a shared beginning, random max_tokens, streamed or whole, greedy or sampled; a share is cut off by
closing the connection, and a share of the streams is read slowly through a small receive buffer; the
latencies between events are the other streams'. Afterwards the server must become idle with no KV page
held. With --drain each client then sends one more request, the server gets SIGTERM once it has taken
them all, and all must be answered in full. Prints one JSON object; exit 1 if anything was wrong.
Standard library only.
"""
import argparse
import asyncio
import json
import random
import os
import re
import signal
import socket
import sys
import time
import urllib.parse
from pathlib import Path

CONNECT_TIMEOUT_S = 30
MAX_LISTED_ERRORS = 10


class Wrong(Exception):
    """What the server did that it must not do."""


class Connection:
    """One HTTP/1.1 request on a connection of its own."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or 80
        self.reader = self.writer = None
        self.chunked = False

    async def send(self, method, path, body=b"", slow=False):
        """Returns the status; the body is to be read with body_pieces()."""
        # A slow reader keeps little in hand, so that the server soon has to wait for it.
        more = {"limit": 1 << 12} if slow else {}
        self.reader, self.writer = await asyncio.wait_for(
            asyncio.open_connection(self.host, self.port, **more), CONNECT_TIMEOUT_S)
        if slow:
            self.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        head = (f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip()
                   for name, _, value in (line.partition(":") for line in lines[1:])}
        self.chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        return int(lines[0].split()[1])

    async def body_pieces(self):
        if not self.chunked:
            while piece := await self.reader.read(1 << 16):
                yield piece
            return
        while size := int((await self.reader.readline()).split(b";")[0] or b"x", 16):
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)

    async def body(self):
        return b"".join([piece async for piece in self.body_pieces()])

    async def events(self):
        """The JSON of each server-sent event; the stream must end with [DONE]."""
        rest = b""
        async for piece in self.body_pieces():
            *events, rest = (rest + piece).split(b"\n\n")
            for event in events:
                if not event.startswith(b"data: "):
                    continue
                if event == b"data: [DONE]":
                    return
                yield json.loads(event[6:])
        raise Wrong("a stream ended without [DONE]")

    def close(self):
        if self.writer is not None:
            self.writer.transport.abort()


async def get(url, path):
    connection = Connection(url)
    try:
        status = await connection.send("GET", path)
        body = await connection.body()
    finally:
        connection.close()
    if status != 200:
        raise Wrong(f"{path} answered {status}: {body[:200]!r}")
    return body.decode()


async def metrics(url):
    """Gauges and counters by name, without prefix and model; a label's value stands behind a name."""
    values = {}
    for line in (await get(url, "/metrics")).splitlines():
        found = re.fullmatch(r'(?:vllm|deepflight):(\w+)\{([^}]*)\} (\S+)', line)
        if found is None or found[1].endswith(("_bucket", "_sum", "_count")):
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2]))
        labels.pop("model_name", None)
        value = float(found[3])
        values[".".join([found[1], *labels.values()])] = int(value) if value.is_integer() else value
    return values


class Storm:
    def __init__(self, options, model):
        self.options = options
        self.model = model["id"]
        self.room = model.get("max_model_len", 4096)
        self.counts = dict.fromkeys(
            ("requests", "streamed", "whole", "slow", "cancelled", "sampled", "prompt_tokens",
             "output_tokens"), 0)
        self.errors = []
        self.num_errors = 0
        self.first_token_s = []
        self.between_events_s = []
        shared = random.Random(options.seed)
        self.beginnings = [self.random_ids(shared, 200) for _ in range(8)]

    def random_ids(self, rng, count):
        return [rng.randrange(self.options.vocab) for _ in range(count)]

    def make_request(self, rng):
        limit = min(self.options.max_prompt, self.room - 2)
        length = max(1, int(limit ** rng.random()))  # most are short, all lengths occur
        prompt = self.random_ids(rng, length)
        if rng.random() < 0.3:
            beginning = rng.choice(self.beginnings)[:length]
            prompt[:len(beginning)] = beginning
        max_tokens = rng.randint(1, min(self.options.max_output, self.room - length))
        body = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens,
                "ignore_eos": True, "return_token_ids": True, "temperature": 0}
        if rng.random() < 0.5:
            body |= {"temperature": 0.8, "top_p": 0.95, "seed": rng.randrange(1 << 30)}
            if rng.random() < 0.3:
                body |= {"top_k": 50, "presence_penalty": 0.5}
            if rng.random() < 0.2:
                body |= {"logprobs": 2}
            self.counts["sampled"] += 1
        if rng.random() < 0.85:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def check(self, body, token_ids, finish_reason, usage):
        if finish_reason != "length":
            raise Wrong(f"finish_reason {finish_reason!r}, want 'length'")
        want = (len(body["prompt"]), body["max_tokens"], body["max_tokens"])
        got = (usage["prompt_tokens"], usage["completion_tokens"], len(token_ids))
        if got != want:
            raise Wrong(f"prompt, usage's and received tokens are {got}, want {want}")
        if any(token_id < 0 for token_id in token_ids):
            raise Wrong("a negative token id")
        self.counts["prompt_tokens"] += got[0]
        self.counts["output_tokens"] += got[1]

    async def stream(self, connection, body, cut_after, start_s, pause_s):
        """Reads a stream to its end, or to event number `cut_after`; returns whether it was cut."""
        last_s = None
        token_ids, finish_reason, usage = [], None, None
        num_events = 0
        async for event in connection.events():
            if "error" in event:
                raise Wrong(f"an error in a stream: {event['error']}")
            if not token_ids:
                self.first_token_s.append(time.monotonic() - start_s)
            now_s = time.monotonic()
            if pause_s:
                await asyncio.sleep(pause_s)
            elif last_s is not None:
                self.between_events_s.append(now_s - last_s)
            last_s = now_s
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                token_ids += choice.get("token_ids") or []
                finish_reason = choice.get("finish_reason") or finish_reason
            num_events += 1
            if cut_after is not None and num_events >= cut_after:
                return True
        if usage is None:
            raise Wrong("a stream without usage")
        self.check(body, token_ids, finish_reason, usage)
        return False

    async def request(self, rng):
        body = self.make_request(rng)
        is_stream = body.get("stream", False)
        cut = rng.random() < self.options.cancel_share
        slow = is_stream and rng.random() < self.options.slow_share
        pause_s = rng.uniform(0.05, 0.5) if slow else 0
        connection = Connection(self.options.url)
        start_s = time.monotonic()
        self.counts["requests"] += 1
        try:
            data = json.dumps(body).encode()
            if cut and not is_stream:  # gone before the answer comes
                try:
                    await asyncio.wait_for(connection.send("POST", "/v1/completions", data),
                                           rng.random())
                except asyncio.TimeoutError:
                    pass
                self.counts["cancelled"] += 1
                return
            status = await connection.send("POST", "/v1/completions", data, slow)
            if status != 200:
                raise Wrong(f"status {status}: {(await connection.body())[:300]!r}")
            if is_stream:
                cut_after = rng.randint(1, body["max_tokens"]) if cut else None
                if await self.stream(connection, body, cut_after, start_s, pause_s):
                    self.counts["cancelled"] += 1
                else:
                    self.counts["slow" if slow else "streamed"] += 1
                return
            answer = json.loads(await connection.body())
            choice = answer["choices"][0]
            self.check(body, choice["token_ids"], choice["finish_reason"], answer["usage"])
            self.counts["whole"] += 1
        finally:
            connection.close()

    async def drain(self):
        """SIGTERM with a request of every client in flight: none may be lost."""
        self.options.cancel_share = 0
        before = dict(self.counts)
        rngs = [random.Random(self.options.seed + 7 * number) for number in
                range(self.options.clients)]
        requests = [asyncio.create_task(self.request(rng)) for rng in rngs]
        end_s = time.monotonic() + self.options.request_timeout
        done = []
        while len(done) + (await metrics(self.options.url))["num_requests_in_flight"] < len(requests):
            if time.monotonic() > end_s:
                raise Wrong("the server does not take all requests of the drain")
            await asyncio.sleep(0.05)
            done = [request for request in requests if request.done()]
        os.kill(self.options.pid, signal.SIGTERM)
        for result in await asyncio.gather(*requests, return_exceptions=True):
            if isinstance(result, BaseException):
                self.note_error(f"lost in the drain: {type(result).__name__}: {result}")
        answered = sum(self.counts[name] - before[name] for name in ("streamed", "whole", "slow"))
        return {"requests": len(requests), "in_flight_at_sigterm": len(requests) - len(done),
                "answered": answered}

    def note_error(self, text):
        self.num_errors += 1
        if len(self.errors) < MAX_LISTED_ERRORS:
            self.errors.append(text)

    async def client(self, number, end_s):
        rng = random.Random(self.options.seed * 1_000_003 + number)
        while time.monotonic() < end_s:
            try:
                await asyncio.wait_for(self.request(rng), self.options.request_timeout)
            except asyncio.TimeoutError:
                self.note_error(f"no answer within {self.options.request_timeout} s")
            except Exception as failure:  # pylint: disable=broad-except
                self.note_error(f"{type(failure).__name__}: {failure}")
                await asyncio.sleep(0.1)

    async def wait_until_idle(self):
        """The metrics once nothing runs and no page is held, or of the moment time is up."""
        end_s = time.monotonic() + self.options.idle_timeout
        while True:
            values = await metrics(self.options.url)
            busy = [name for name in ("num_requests_in_flight", "num_requests_running",
                                      "num_requests_waiting", "kv_pages_used") if values[name]]
            if not busy or time.monotonic() > end_s:
                for name in busy:
                    self.note_error(f"idle server: {name} is {values[name]}")
                return values
            await asyncio.sleep(0.2)


def resident_mib(pid):
    if pid is None:
        return None
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return None


def percentile(values, share):
    values = sorted(values)
    return round(values[min(len(values) - 1, int(share * len(values)))], 4) if values else None


async def run(options):
    model = json.loads(await get(options.url, "/v1/models"))["data"][0]
    storm = Storm(options, model)
    start_s = time.monotonic()
    clients = [asyncio.create_task(storm.client(i, start_s + options.seconds))
               for i in range(options.clients)]
    # Memory that is taken once is taken by now.
    await asyncio.sleep(options.seconds / 3)
    early_mib = resident_mib(options.pid)
    await asyncio.gather(*clients)
    seconds = time.monotonic() - start_s
    values = await storm.wait_until_idle()
    late_mib = resident_mib(options.pid)
    await get(options.url, "/health")
    if options.pid is not None and late_mib - early_mib > options.max_growth_mib:
        storm.note_error(f"memory grew from {early_mib} to {late_mib} MiB")
    counts = dict(storm.counts)
    drained = await storm.drain() if options.drain else None
    for name in ("streamed", "whole", "cancelled"):
        if counts[name] == 0 and not options.allow_few:
            storm.note_error(f"no request was {name}: too short a storm to say anything")
    return {
        "model": storm.model, "clients": options.clients, "seconds": round(seconds, 1), **counts,
        "output_tokens_per_s": round(counts["output_tokens"] / seconds, 1),
        "first_token_s": {"p50": percentile(storm.first_token_s, 0.5),
                          "p99": percentile(storm.first_token_s, 0.99)},
        "between_events_s": {"p50": percentile(storm.between_events_s, 0.5),
                             "p99": percentile(storm.between_events_s, 0.99)},
        "resident_mib": [early_mib, late_mib], "drained": drained, "metrics": values,
        "num_errors": storm.num_errors, "errors": storm.errors,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="of the server, without a path")
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--max-prompt", type=int, default=4096, help="tokens")
    parser.add_argument("--max-output", type=int, default=256, help="tokens")
    parser.add_argument("--vocab", type=int, default=1000, help="prompts draw ids below this")
    parser.add_argument("--cancel-share", type=float, default=0.15)
    parser.add_argument("--slow-share", type=float, default=0.05, help="of the streams")
    parser.add_argument("--request-timeout", type=float, default=300, help="seconds")
    parser.add_argument("--idle-timeout", type=float, default=30, help="seconds")
    parser.add_argument("--pid", type=int, help="of the server, to watch its memory")
    parser.add_argument("--max-growth-mib", type=int, default=128)
    parser.add_argument("--drain", action="store_true", help="end the server; needs --pid")
    parser.add_argument("--allow-few", action="store_true",
                        help="a kind of request may be missing")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.drain and options.pid is None:
        parser.error("--drain needs --pid")
    try:
        report = asyncio.run(run(options))
    except (Wrong, OSError, asyncio.TimeoutError) as failure:
        sys.exit(f"serve_storm: {options.url}: {type(failure).__name__} {failure}")
    print(json.dumps(report))
    return 1 if report["num_errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
