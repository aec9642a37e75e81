"""Our model in a bare PyTorch loop: what the Trainer, its loader, callbacks, health and logs cost on top.

Settings (peer.py): bf16 autocast over fp32 weights, torch.compile of the whole model, SDPA, our loss without logits,
fused AdamW, gradients clipped at 1.0, pinned copies. Run: rows.py does.
"""

from peer import Case, train


def main() -> None:
    case = Case()
    import torch

    from yxanul import YxanulForCausalLM

    torch.manual_seed(1)
    model = YxanulForCausalLM(case.config)
    model.config.use_cache = False
    train(case, model, lambda model, ids, targets: model(input_ids=ids, labels=targets, shift_labels=targets).loss)


if __name__ == "__main__":
    main()
