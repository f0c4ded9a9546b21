#!/usr/bin/env python3
"""Makes tests/golden/v3_mtp: a small checkpoint with two MTP modules, and what they draft.

transformers drops MTP modules, so this is the published description in numpy, in float64 and without a
cache: module k reads, at position i, the token i + k and the state of module k - 1 at i (of the main
model's final norm for k = 1), both normed and projected into one decoder layer, and has the main model's
embedding and head. The same code runs the main model, and --check holds that against what transformers
says of tests/golden/v3_groups. tests/golden/README.md describes the files.

    python tools/golden/make_mtp_golden.py [--out tests/golden/v3_mtp]
    python tools/golden/make_mtp_golden.py --check
"""
import argparse
import json
import struct
import sys
from pathlib import Path

import numpy as np

from configs import v3
from layout import weight_shapes

NUM_MODULES = 2
NUM_EAGLE_DRAFTS = 3
CONFIG = v3(num_hidden_layers=2, n_routed_experts=8, n_group=2, topk_group=1, num_experts_per_tok=2,
            num_nextn_predict_layers=NUM_MODULES)
PROMPT_LENGTHS = [1, 2, 6, 63, 64, 131]
MIN_GAP = 1e-3  # of the two best logits, relative to the largest
MIN_ROUTER_GAP = 2e-5
SEED = 7


def read_safetensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        raw = data[begin:end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {"F32": np.float32, "I32": np.int32}[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    """`tensors`: name -> (dtype, array of the stored bits)."""
    header, offset = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text
                     + b"".join(array.tobytes() for _, array in tensors.values()))


def to_bf16(values):
    """Bits of the nearest."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def silu(x):
    return x / (1 + np.exp(-x))


def top(values, count):
    return np.argsort(-values, kind="stable")[:count]


class Reference:
    """The published model; `weights` in any float type, by published names."""

    def __init__(self, config, weights):
        self.c = config
        self.w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self.router_gap = np.inf

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T

    def norm(self, x, name):
        return rms_norm(x, self.w[name + ".weight"], self.c["rms_norm_eps"])

    def rope(self, x):
        """[tokens, ..., rope dim] at positions 0, 1, ...: neighbours are pairs."""
        dim = x.shape[-1]
        angles = np.arange(len(x))[:, None] * self.c["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
        angles = angles.reshape(len(x), *[1] * (x.ndim - 2), dim // 2)
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = np.stack([even * np.cos(angles) - odd * np.sin(angles),
                           odd * np.cos(angles) + even * np.sin(angles)], -1)
        return turned.reshape(x.shape)

    def attention(self, x, prefix):
        c, n = self.c, len(x)
        heads, nope, v_dim = c["num_attention_heads"], c["qk_nope_head_dim"], c["v_head_dim"]
        q = self.linear(self.norm(self.linear(x, prefix + "q_a_proj"), prefix + "q_a_layernorm"),
                        prefix + "q_b_proj").reshape(n, heads, -1)
        both = self.linear(x, prefix + "kv_a_proj_with_mqa")
        latent = self.norm(both[:, :c["kv_lora_rank"]], prefix + "kv_a_layernorm")
        kv = self.linear(latent, prefix + "kv_b_proj").reshape(n, heads, nope + v_dim)
        k_pe = self.rope(both[:, c["kv_lora_rank"]:])
        scores = (np.einsum("qhd,khd->hqk", q[..., :nope], kv[..., :nope])
                  + np.einsum("qhd,kd->hqk", self.rope(q[..., nope:]), k_pe))
        scores *= q.shape[-1] ** -0.5
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("hqk,khd->qhd", weights, kv[..., nope:])
        return self.linear(out.reshape(n, -1), prefix + "o_proj")

    def mlp(self, x, prefix):
        return self.linear(silu(self.linear(x, prefix + "gate_proj"))
                           * self.linear(x, prefix + "up_proj"), prefix + "down_proj")

    def note_gap(self, values, count):
        best = np.sort(values)[::-1]
        if len(best) > count:
            self.router_gap = min(self.router_gap, best[count - 1] - best[count])

    def moe(self, x, prefix):
        c = self.c
        all_scores = 1 / (1 + np.exp(-self.linear(x, prefix + "gate")))
        out = self.mlp(x, prefix + "shared_experts.")
        for token, scores in enumerate(all_scores):
            choice = scores + self.w[prefix + "gate.e_score_correction_bias"]
            groups = choice.reshape(c["n_group"], -1)
            group_scores = np.sort(groups, -1)[:, -2:].sum(-1)
            self.note_gap(group_scores, c["topk_group"])
            kept = np.full_like(groups, -np.inf)
            chosen_groups = top(group_scores, c["topk_group"])
            kept[chosen_groups] = groups[chosen_groups]
            self.note_gap(kept.ravel()[np.isfinite(kept.ravel())], c["num_experts_per_tok"])
            experts = top(kept.ravel(), c["num_experts_per_tok"])
            weights = scores[experts] / scores[experts].sum() * c["routed_scaling_factor"]
            for expert, weight in zip(experts, weights):
                out[token] += weight * self.mlp(x[token], f"{prefix}experts.{expert}.")
        return out

    def layer(self, x, index):
        prefix = f"model.layers.{index}."
        x = x + self.attention(self.norm(x, prefix + "input_layernorm"), prefix + "self_attn.")
        normed = self.norm(x, prefix + "post_attention_layernorm")
        is_dense = index < self.c["first_k_dense_replace"]
        return x + (self.mlp if is_dense else self.moe)(normed, prefix + "mlp.")

    def states(self, ids):
        """Of the main model, after its final norm."""
        x = self.w["model.embed_tokens.weight"][ids]
        for index in range(self.c["num_hidden_layers"]):
            x = self.layer(x, index)
        return self.norm(x, "model.norm")

    def module(self, number, states, ids):
        """States of MTP module `number` (1, 2, ...) at positions 0, 1, ...: of states[i] and ids[i]."""
        index = self.c["num_hidden_layers"] + number - 1
        prefix = f"model.layers.{index}."
        embedded = self.norm(self.w["model.embed_tokens.weight"][ids], prefix + "enorm")
        joined = np.concatenate([embedded, self.norm(states, prefix + "hnorm")], -1)
        x = self.layer(self.linear(joined, prefix + "eh_proj"), index)
        return self.norm(x, prefix + "shared_head.norm")

    def logits(self, states):
        return self.linear(states, "lm_head")


def eagle(reference, states, ids):
    """Drafts' logits by the first module alone; `ids`: the prompt and the token after it."""
    states, ids, rows = states, list(ids[1:]), []
    for _ in range(NUM_EAGLE_DRAFTS):
        last = reference.module(1, states, ids)[-1:]
        rows.append(reference.logits(last)[0])
        states, ids = np.concatenate([states, last]), ids + [int(rows[-1].argmax())]
    return np.stack(rows)


def vanilla(reference, states, ids):
    """Drafts' logits by each module in turn."""
    ids, rows = list(ids), []
    for number in range(1, NUM_MODULES + 1):
        states = reference.module(number, states, ids[number:])
        rows.append(reference.logits(states[-1]))
        ids.append(int(rows[-1].argmax()))
    return np.stack(rows)


def is_clear(rows):
    best = np.sort(rows, -1)
    return bool(np.all(best[:, -1] - best[:, -2] > MIN_GAP * np.abs(rows).max()))


def golden(reference, rng, length):
    """Outputs for a prompt of this length without near ties."""
    while True:
        prompt = [int(i) for i in rng.integers(2, CONFIG["vocab_size"], length)]
        reference.router_gap = np.inf
        states = reference.states(prompt)
        first = reference.logits(states[-1:])
        ids = prompt + [int(first[0].argmax())]
        drafts = {"eagle": eagle(reference, states, ids), "vanilla": vanilla(reference, states, ids)}
        if (reference.router_gap > MIN_ROUTER_GAP
                and all(map(is_clear, [first, *drafts.values()]))):
            return ids, drafts


def draw_checkpoint(rng):
    tensors = {}
    for name, shape in weight_shapes(CONFIG, NUM_MODULES).items():
        noise = rng.standard_normal(shape)
        if name.endswith("e_score_correction_bias"):
            tensors[name] = ("F32", (0.2 * noise).astype(np.float32))
            continue
        if len(shape) == 1:
            values = 1 + 0.2 * noise
        elif name.endswith("embed_tokens.weight"):
            values = noise
        else:
            values = 1.3 * noise / shape[1] ** 0.5
        tensors[name] = ("BF16", to_bf16(values))
    return tensors


def make(out):
    rng = np.random.default_rng(SEED)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    write_safetensors(out / "model.safetensors", draw_checkpoint(rng))
    reference = Reference(CONFIG, read_safetensors(out / "model.safetensors"))
    results = {}
    for k, length in enumerate(PROMPT_LENGTHS):
        ids, drafts = golden(reference, rng, length)
        results[f"prompt_{k}.token_ids"] = ("I32", np.array(ids[:-1], np.int32))
        results[f"prompt_{k}.next_id"] = ("I32", np.array(ids[-1:], np.int32))
        for mode, rows in drafts.items():
            results[f"prompt_{k}.{mode}_ids"] = ("I32", rows.argmax(-1).astype(np.int32))
            results[f"prompt_{k}.{mode}_logits"] = ("F32", rows.astype(np.float32))
    write_safetensors(out / "mtp.safetensors", results)


def check(folder):
    """Largest difference from transformers' logits, relative to the largest of them."""
    reference = Reference(json.loads((folder / "config.json").read_text()),
                          read_safetensors(folder / "model.safetensors"))
    want, worst, k = read_safetensors(folder / "golden.safetensors"), 0.0, 0
    while f"prompt_{k}.token_ids" in want:
        logits = reference.logits(reference.states(want[f"prompt_{k}.token_ids"]))
        error = np.abs(logits - want[f"prompt_{k}.logits"]).max()
        worst, k = max(worst, error / np.abs(logits).max()), k + 1
    print(f"{folder}: {k} prompts, {worst:.1e} from transformers")
    return k > 0 and worst < 2e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tests/golden/v3_mtp"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        return 0 if check(Path("tests/golden/v3_groups")) else 1
    make(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
