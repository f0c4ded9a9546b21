"""Names and shapes of a checkpoint's tensors."""


def weight_shapes(config, num_mtp_modules=0):
    """Published tensor names and shapes, written down from the published checkpoints. Modules come without
    their copies of embedding and head, which are the main model's."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    qk_dim = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}

    def mlp(prefix, width):
        shapes[prefix + "gate_proj.weight"] = (width, hidden)
        shapes[prefix + "up_proj.weight"] = (width, hidden)
        shapes[prefix + "down_proj.weight"] = (hidden, width)

    num_layers = config["num_hidden_layers"]
    for layer in range(num_layers + num_mtp_modules):
        prefix = f"model.layers.{layer}."
        attention = prefix + "self_attn."
        if layer >= num_layers:
            shapes[prefix + "enorm.weight"] = (hidden,)
            shapes[prefix + "hnorm.weight"] = (hidden,)
            shapes[prefix + "eh_proj.weight"] = (hidden, 2 * hidden)
            shapes[prefix + "shared_head.norm.weight"] = (hidden,)
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        rank = config["q_lora_rank"]
        if rank is None:
            shapes[attention + "q_proj.weight"] = (heads * qk_dim, hidden)
        else:
            shapes[attention + "q_a_proj.weight"] = (rank, hidden)
            shapes[attention + "q_a_layernorm.weight"] = (rank,)
            shapes[attention + "q_b_proj.weight"] = (heads * qk_dim, rank)
        latent = config["kv_lora_rank"]
        shapes[attention + "kv_a_proj_with_mqa.weight"] = (
            latent + config["qk_rope_head_dim"], hidden)
        shapes[attention + "kv_a_layernorm.weight"] = (latent,)
        shapes[attention + "kv_b_proj.weight"] = (
            heads * (config["qk_nope_head_dim"] + config["v_head_dim"]), latent)
        shapes[attention + "o_proj.weight"] = (hidden, heads * config["v_head_dim"])
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        if layer < config["first_k_dense_replace"]:
            mlp(prefix + "mlp.", config["intermediate_size"])
            continue
        num_experts, width = config["n_routed_experts"], config["moe_intermediate_size"]
        shapes[prefix + "mlp.gate.weight"] = (num_experts, hidden)
        if config["topk_method"] == "noaux_tc":
            shapes[prefix + "mlp.gate.e_score_correction_bias"] = (num_experts,)
        for expert in range(num_experts):
            mlp(f"{prefix}mlp.experts.{expert}.", width)
        if config["n_shared_experts"] > 0:
            mlp(prefix + "mlp.shared_experts.", width * config["n_shared_experts"])
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes
