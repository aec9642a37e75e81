"""The measurement behind each choice of kernel form in the model: each form against Llama's and against the others.

Run: python benchmarks/choices.py [norm] [rope] [attention] [chunks] [vocabulary]
Without a name all five run, some four CPU minutes.
Forward and backward on one CPU thread in fp32, the forms in turns. "Bit-equal" compares outputs and all gradients with
the first form of the table; "kept" is what autograd holds for the backward pass beside inputs and weights.
Not here: whole steps (`training_step.py`), bf16, torch.compile, GPUs; what is fastest there may be another form.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from head_memory import largest_difference, make_work
from measuring import (
    MEGABYTE,
    print_header,
    print_table,
    ratios,
    seconds_in_turns,
    summary,
    use_one_thread,
)

Forms = dict[str, Callable[[], Any]]


def backward_of(form: Callable[[], tuple], leaves: list, gradients: list) -> Callable[[], list]:
    """The form's forward and backward as one call, which returns the outputs and the gradients of the leaves."""
    import torch

    def work():
        for leaf in leaves:
            leaf.grad = None
        outputs = form()
        torch.autograd.backward(outputs, gradients)
        return [output.detach() for output in outputs] + [leaf.grad for leaf in leaves]

    return work


def kept_for_backward(form: Callable[[], tuple], given: list) -> float:
    """Megabytes of storage that the graph saves, each storage once, without those of the given tensors."""
    import torch

    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = form()
    addresses = {tensor.untyped_storage().data_ptr() for tensor in given}
    size = sum(storage.nbytes() for address, storage in kept.items() if address not in addresses)
    del outputs
    return size / MEGABYTE


def compare(title: str, forms: Forms, leaves: list, gradients: list, tables: list, repeats: int, calls: int) -> None:
    """One table: time, ratio to the first form, memory kept, equality of outputs and gradients."""
    import torch

    works = {name: backward_of(form, leaves, gradients) for name, form in forms.items()}
    results = {name: work() for name, work in works.items()}
    kept = {name: kept_for_backward(form, [*leaves, *tables]) for name, form in forms.items()}
    seconds = seconds_in_turns(works, repeats, calls)
    first = next(iter(forms))
    rows = []
    for name in forms:
        pairs = list(zip(results[name], results[first], strict=True))
        equal = all(torch.equal(*pair) for pair in pairs)
        difference = "yes" if equal else f"no, {max(largest_difference(*pair) for pair in pairs):.0e}"
        ratio = statistics.median(ratios(seconds[name], seconds[first]))
        rows.append([name, summary(seconds[name], 1e3, 2), f"{ratio:.2f}x", f"{kept[name]:.1f}", difference])
    print(title)
    print_table(["form", "CPU ms, median (range)", "time", "kept, MB", "bit-equal"], rows)


def random_leaves(*shapes: tuple[int, ...]) -> list:
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def norm(repeats: int) -> None:
    import torch
    from forms_not_taken import NormWithOwnBackward
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from yxanul.modeling_yxanul import YxanulRMSNorm

    for rows, width, calls in ((1024, 384, 10), (2048, 768, 5), (1, 768, 500)):
        hidden, gradient = random_leaves((rows, width), (rows, width))
        llama, ours = LlamaRMSNorm(width, eps=1e-6), YxanulRMSNorm(width, eps=1e-6)
        weight = ours.weight = llama.weight
        with torch.no_grad():
            weight.copy_(random_leaves((width,))[0])  # a weight of ones would hide differences
        forms: Forms = {
            "Llama: chain of small kernels": lambda llama=llama, hidden=hidden: (llama(hidden),),
            "ours: F.rms_norm": lambda ours=ours, hidden=hidden: (ours(hidden),),
            "own autograd function": lambda hidden=hidden, weight=weight: (
                NormWithOwnBackward.apply(hidden, weight, 1e-6),
            ),
        }
        where = f"RMSNorm, {rows:,} {'rows' if rows > 1 else 'row'} x {width}"
        compare(where, forms, [hidden, weight], [gradient.detach()], [], repeats, calls)
        if rows == 1:  # one token at a time, as in generation
            with torch.no_grad():
                seconds = seconds_in_turns(forms, repeats, calls)
            print(f"{where}, forward alone, no gradient")
            print_table(
                ["form", "CPU us, median (range)"],
                [[name, summary(values, 1e6, 1)] for name, values in seconds.items()],
            )


def rope_forms(q, k, head_size: int) -> tuple[Forms, list]:
    """Forms that turn the projections (B, T, H x d) into rotated heads (B, H, T, d), and their tables."""
    import torch
    from forms_not_taken import RotateWithOwnBackward, rotate_addcmul, rotate_roll
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    from yxanul.modeling_yxanul import rotate

    length, heads = q.shape[1], q.shape[2] // head_size
    angles = torch.outer(torch.arange(length), 1e4 ** (-torch.arange(0, head_size, 2) / head_size))[None]
    cos, sin = angles.cos(), angles.sin()
    whole = torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)
    by_head, by_time = (cos[:, None], sin[:, None]), (cos[:, :, None], sin[:, :, None])
    signed = torch.cat((cos, cos), dim=-1)[:, :, None], torch.cat((-sin, sin), dim=-1)[:, :, None]
    own = RotateWithOwnBackward.apply

    def split(states):
        return states.unflatten(-1, (-1, head_size))

    def after_transpose(turn, table):
        return tuple(turn(split(states).transpose(1, 2), *table) for states in (q, k))

    def before_transpose(turn, table):
        return tuple(turn(split(states), *table).transpose(1, 2) for states in (q, k))

    def llama():
        return apply_rotary_pos_emb(split(q).transpose(1, 2), split(k).transpose(1, 2), *whole)

    def one_concatenation():
        both = rotate(split(torch.cat((q, k), dim=-1)).transpose(1, 2), *by_head)
        return both[:, :heads], both[:, heads:]

    forms: Forms = {
        "Llama: apply_rotary_pos_emb": llama,
        "rotate after the transpose": partial(after_transpose, rotate, by_head),
        "rotate before the transpose": partial(before_transpose, rotate, by_time),
        "one concatenation of q and k": one_concatenation,
        "addcmul after the transpose": partial(after_transpose, rotate_addcmul, by_head),
        "addcmul before the transpose": partial(before_transpose, rotate_addcmul, by_time),
        "roll and signed table, before": partial(before_transpose, rotate_roll, signed),
        "own autograd function, after": partial(after_transpose, own, by_head),
        "own autograd function, before": partial(before_transpose, own, by_time),
    }
    return forms, [cos, sin, *whole, *signed]


def rope(repeats: int) -> None:
    from torch.nn.functional import scaled_dot_product_attention

    for batch, length, heads, kv_heads, size in ((2, 512, 6, 2, 64), (1, 2048, 12, 2, 64)):
        q, k, v = random_leaves(*((batch, length, count * size) for count in (heads, kv_heads, kv_heads)))
        # SDPA's backward gives the gradients of q and k in this layout
        gradients = [leaf.detach() for leaf in random_leaves(*((batch, n, length, size) for n in (heads, kv_heads)))]
        forms, tables = rope_forms(q, k, size)
        where = f"{batch} x {length:,} tokens, heads {heads}/{kv_heads} of {size}"
        compare(f"RoPE alone, {where}", forms, [q, k], gradients, tables, repeats, calls=4)

        def attend(form, v=v, size=size):
            v_heads = v.unflatten(-1, (-1, size)).transpose(1, 2)
            return (scaled_dot_product_attention(*form(), v_heads, is_causal=True, enable_gqa=True),)

        # the other forms give heads in one of these layouts
        layouts = [name for name in forms if name.startswith(("Llama", "rotate"))]
        attending = {name: partial(attend, forms[name]) for name in layouts}
        attended = [gradients[0].transpose(1, 2).contiguous().transpose(1, 2)]
        compare(f"RoPE and attention, {where}", attending, [q, k, v], attended, tables, 3 * repeats, calls=1)


def attention(repeats: int) -> None:
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attend
    from transformers.integrations.sdpa_attention import repeat_kv

    for length in (512, 2048):
        heads, kv_heads, size = 12, 2, 64
        shapes = ((1, count, length, size) for count in (heads, kv_heads, kv_heads))
        q, k, v = random_leaves(*shapes)
        gradient = random_leaves((1, length, heads, size))[0].detach().transpose(1, 2)
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        added_mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)

        def repeated(q=q, k=k, v=v, groups=heads // kv_heads, **options):
            return (attend(q, repeat_kv(k, groups), repeat_kv(v, groups), **options),)

        def grouped(q=q, k=k, v=v, **options):
            return (attend(q, k, v, enable_gqa=True, **options),)

        forms: Forms = {
            "no mask, enable_gqa (ours, Llama)": partial(grouped, is_causal=True),
            "no mask, repeat_kv": partial(repeated, is_causal=True),
            "4D mask of booleans, enable_gqa": partial(grouped, attn_mask=mask),
            "4D mask of booleans, repeat_kv": partial(repeated, attn_mask=mask),
            "4D mask of floats, repeat_kv": partial(repeated, attn_mask=added_mask),
        }
        title = f"Attention, 1 x {length:,} tokens, heads {heads}/{kv_heads} of {size}"
        compare(title, forms, [q, k, v], [gradient], [mask, added_mask], repeats, calls=max(1, 1024 // length))


def compare_losses(title: str, works: Forms, notes: dict[str, str], heading: str, repeats: int) -> None:
    naive = works["naive: all logits"]()
    differences = {
        name: max(largest_difference(*pair) for pair in zip(work()[1:], naive[1:], strict=True))
        for name, work in works.items()
    }
    seconds = seconds_in_turns(works, repeats)
    reference = seconds["naive: all logits"]
    print(title)
    print_table(
        ["form", "CPU ms, median (range)", "time", heading, "gradients differ by"],
        [
            [
                name,
                summary(values, 1e3),
                f"{statistics.median(ratios(values, reference)):.3f}x",
                notes[name],
                f"{differences[name]:.0e}",
            ]
            for name, values in seconds.items()
        ],
    )


def chunks(repeats: int) -> None:
    rank, rows = 128, 512
    for vocabulary in (50_257, 200_005):
        works = {"naive: all logits": make_work("naive", vocabulary, rank, rows)}
        buffers = {"naive: all logits": f"{3 * rows * vocabulary * 4 / MEGABYTE:,.0f}"}  # logits, softmax, gradient
        for chunk_rows in (32, 64, 128, 256, 512):
            works[f"{chunk_rows} rows"] = make_work("ours", vocabulary, rank, rows, chunk_rows=chunk_rows)
            buffers[f"{chunk_rows} rows"] = f"{chunk_rows * vocabulary * 4 / MEGABYTE:,.0f}"
        title = f"Rows per chunk of the loss, V = {vocabulary:,}, rank {rank}, {rows} rows"
        compare_losses(title, works, buffers, "buffers, MB (reckoned)", repeats)


def vocabulary(repeats: int) -> None:
    rank, rows = 128, 512
    for size in (50_257, 200_005):
        works = {"naive: all logits": make_work("naive", size, rank, rows)}
        widths = {"naive: all logits": f"{size:,}"}
        for multiple in (1, 16, 128):
            name = f"padded to a multiple of {multiple}"
            works[name] = make_work("ours", size, rank, rows, vocabulary_multiple=multiple)
            widths[name] = f"{-(-size // multiple) * multiple:,}"
        title = f"Padded vocabulary in the loss, V = {size:,}, rank {rank}, {rows} rows, rows per chunk by default"
        compare_losses(title, works, widths, "columns", repeats)


SECTIONS = {"norm": norm, "rope": rope, "attention": attention, "chunks": chunks, "vocabulary": vocabulary}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"any of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    for name in arguments.sections:  # `choices` would refuse the empty list
        if name not in SECTIONS:
            parser.error(f"unknown section {name!r}: take any of {', '.join(SECTIONS)}")

    use_one_thread()
    print_header()
    for name in arguments.sections or SECTIONS:
        SECTIONS[name](arguments.repeats)


if __name__ == "__main__":
    main()
