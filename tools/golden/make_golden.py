#!/usr/bin/env python3
"""Makes tests/golden: small random checkpoints with the outputs that transformers gives for them.

For each config of configs.py: weights are drawn and written in the published layout, transformers
reads that directory (for FP8 a dequantised copy) and runs it in float32, and prompts are drawn
until greedy decoding and expert choice have no near ties, so that another implementation's
rounding cannot change them. tests/golden/README.md describes the files.

    python tools/golden/make_golden.py [--out tests/golden] [--only NAME]
"""
import argparse
import json
import shutil
import tempfile
import warnings
import zlib
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from configs import GOLDENS
from layout import weight_shapes

NUM_GREEDY = 24
BLOCK = 128
MIN_ROUTER_GAP = 2e-5  # of scores, between the last chosen and the first not chosen
MIN_DISTINCT = 8  # greedy ids: a short loop shows little
MAX_TRIES = 2000


def draw_weight(config, name, shape, generator):
    """Scales at which every part of the network matters to the logits."""
    noise = torch.randn(shape, generator=generator)
    if name.endswith("e_score_correction_bias"):
        return 0.2 * noise
    if len(shape) == 1:
        return 1.0 + 0.2 * noise
    if name.endswith("embed_tokens.weight"):
        # A tied head would find the last token again if its embedding ruled the residual stream.
        return 0.2 * noise if config["tie_word_embeddings"] else noise
    gain = 1.5 if any(part in name for part in ("q_proj", "q_b_proj", "mlp.gate.", "lm_head",
                                                "_proj_with_mqa", "down_proj")) else 1.0
    return gain * noise / shape[1] ** 0.5


def quantise_fp8(weight, powers_of_two):
    """DeepSeek's layout: e4m3 values, and per 128x128 block the F32 number to multiply by."""
    rows, columns = weight.shape
    scales = torch.empty((rows + BLOCK - 1) // BLOCK, (columns + BLOCK - 1) // BLOCK)
    values = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
            scale = weight[block].abs().max() / 448.0
            if powers_of_two:
                scale = torch.exp2(torch.ceil(torch.log2(scale)))
            scales[i, j] = scale
            values[block] = (weight[block] / scale).to(torch.float8_e4m3fn)
    return values, scales


def dequantise_fp8(values, scales):
    spread = scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return values.float() * spread[:values.shape[0], :values.shape[1]]


def is_quantised(name, tensor):
    """Norms, router, embedding and head stay float in the published FP8 checkpoints."""
    return tensor.dim() == 2 and name.endswith("_proj.weight") or "proj_with_mqa" in name


def draw_checkpoint(golden, generator):
    """Returns the tensors as stored, and what they mean in float32."""
    stored, meaning = {}, {}
    quantization = golden.config.get("quantization_config", {})
    for name, shape in weight_shapes(golden.config).items():
        weight = draw_weight(golden.config, name, shape, generator)
        if golden.storage == "fp8" and is_quantised(name, weight):
            values, scales = quantise_fp8(weight, quantization.get("scale_fmt") == "ue8m0")
            stored[name], stored[name + "_scale_inv"] = values, scales
            meaning[name] = dequantise_fp8(values, scales)
            continue
        keeps_f32 = golden.storage == "float32" or name.endswith("e_score_correction_bias")
        stored[name] = weight if keeps_f32 else weight.to(torch.bfloat16)
        meaning[name] = stored[name].float()
    return stored, meaning


def write_model(folder, config, tensors, num_shards):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    metadata = {"format": "pt"}
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata)
        return
    weight_map = {}
    names = list(tensors)
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = names[shard::num_shards]
        save_file({name: tensors[name] for name in part}, folder / file_name, metadata)
        weight_map.update({name: file_name for name in part})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


class Oracle:
    """transformers' model of a directory, in float32, with the router's choices watched."""

    def __init__(self, folder, config):
        model_class = getattr(transformers, config["architectures"][0])
        self.model, info = model_class.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager",
            experts_implementation="eager", output_loading_info=True)
        absent = [name for name in info["missing_keys"] if "shared_experts" not in name]
        assert not absent and not info["unexpected_keys"] and not info["mismatched_keys"], info
        self.model.eval()
        self.config = config
        self.router_gap = float("inf")
        for module in self.model.modules():
            if type(module).__name__.endswith("TopkRouter"):
                module.register_forward_hook(self.watch_router)

    @torch.no_grad()
    def logits(self, ids):
        self.router_gap = float("inf")
        return self.model(torch.tensor([ids]), use_cache=False).logits[0]

    def watch_router(self, module, _, outputs):
        def gap(scores, k):
            if scores.shape[-1] <= k:
                return
            best = scores.topk(k + 1, dim=-1).values
            self.router_gap = min(self.router_gap, (best[..., k - 1] - best[..., k]).min().item())

        logits, config = outputs[0], self.config
        if config["topk_method"] == "noaux_tc":
            scores = logits.sigmoid() + module.e_score_correction_bias
        else:
            scores = logits.softmax(-1)
        if config["topk_method"] != "greedy" and config["n_group"] > 1:
            groups = scores.view(scores.shape[0], config["n_group"], -1)
            if config["topk_method"] == "noaux_tc":
                group_scores = groups.topk(2, dim=-1).values.sum(-1)
            else:
                group_scores = groups.max(-1).values
            gap(group_scores, config["topk_group"])
            chosen = group_scores.topk(config["topk_group"], dim=-1).indices
            groups = torch.take_along_dim(groups, chosen[..., None], 1)
            scores = groups.reshape(scores.shape[0], -1)
        gap(scores, config["num_experts_per_tok"])


def greedy(oracle, prompt, min_gap):
    """(logits of the prompt, greedy ids, their logits); None at a near tie or in a short loop."""
    ids, rows, prompt_logits = list(prompt), [], None
    for _ in range(NUM_GREEDY):
        logits = oracle.logits(ids)
        if prompt_logits is None:
            prompt_logits = logits
        best = logits[-1].topk(2).values
        smallest = min_gap * logits[-1].abs().max()
        if oracle.router_gap < MIN_ROUTER_GAP or best[0] - best[1] < smallest:
            return None
        rows.append(logits[-1])
        ids.append(int(logits[-1].argmax()))
    if len(set(ids[len(prompt):])) < MIN_DISTINCT:
        return None
    return prompt_logits, ids[len(prompt):], torch.stack(rows)


def check_conditioning(oracle, prompt, logits):
    """float32 must be good enough here to be called a reference."""
    oracle.model.double()
    exact = oracle.logits(prompt)
    oracle.model.float()
    error = ((logits - exact).abs().max() / exact.abs().max()).item()
    assert error < 2e-5, error
    return error


def make(golden, out):
    seed = zlib.crc32(golden.name.encode())
    generator = torch.Generator().manual_seed(seed)
    stored, meaning = draw_checkpoint(golden, generator)
    folder = out / golden.name
    if folder.exists():
        shutil.rmtree(folder)
    write_model(folder, golden.config, stored, golden.num_shards)
    with tempfile.TemporaryDirectory() as scratch:
        source = folder
        if golden.storage == "fp8":
            plain = {k: v for k, v in golden.config.items() if k != "quantization_config"}
            source = Path(scratch) / "plain"
            write_model(source, plain, meaning, 1)
        oracle = Oracle(source, golden.config)
    results, error, num_drawn = {}, 0.0, 0
    for i, length in enumerate(golden.prompt_lengths):
        for _ in range(MAX_TRIES):
            num_drawn += 1
            prompt = torch.randint(2, golden.config["vocab_size"], (length,),
                                   generator=generator).tolist()
            answer = greedy(oracle, prompt, golden.min_gap)
            if answer is not None:
                break
        else:
            raise RuntimeError(f"{golden.name}: no prompt of {length} tokens without near ties")
        logits, ids, greedy_logits = answer
        error = max(error, check_conditioning(oracle, prompt, logits))
        results[f"prompt_{i}.token_ids"] = torch.tensor(prompt, dtype=torch.int32)
        results[f"prompt_{i}.logits"] = logits.contiguous()
        results[f"prompt_{i}.greedy_ids"] = torch.tensor(ids, dtype=torch.int32)
        results[f"prompt_{i}.greedy_logits"] = greedy_logits.contiguous()
    # One key: safetensors writes several in an order that changes from run to run.
    metadata = {"made_with": f"transformers {transformers.__version__}, torch {torch.__version__}, "
                             f"seed {seed}"}
    save_file(results, folder / "golden.safetensors", metadata)
    size = sum(path.stat().st_size for path in folder.iterdir())
    spread = results["prompt_3.logits"].std().item()
    distinct = len(set(results["prompt_3.greedy_ids"].tolist()))
    print(f"{golden.name}: {size / 1e3:.0f} kB, {num_drawn} prompts drawn, float32 error "
          f"{error:.1e}, logits' deviation {spread:.2f}, {distinct} distinct greedy ids",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tests/golden"))
    parser.add_argument("--only", help="one config's name")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for golden in GOLDENS:
        if args.only in (None, golden.name):
            make(golden, args.out)


if __name__ == "__main__":
    main()
