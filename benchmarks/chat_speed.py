"""How fast does a chat write on a CPU? transformers' generate against our decoder, fp32 and int8, the 112 M shape.

    python benchmarks/chat_speed.py --tokens 32 --repeats 3

CPU seconds of one process with one thread, in turns; random weights, prompt of 32 tokens, one row, greedy. It also
says whether the tokens are equal. Not here: quality in int8, GPUs, batches.
"""

import argparse

from measuring import print_header, print_table, ratios, seconds_in_turns, summary, use_one_thread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--preset", default="elite-112m")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    use_one_thread()
    print_header()
    import torch

    from yxanul import YxanulForCausalLM
    from yxanul.catalog import load_shape
    from yxanul.evaluation.decoding import Decoder

    torch.manual_seed(0)
    model = YxanulForCausalLM(load_shape(arguments.preset).config).eval()
    prompt = torch.randint(3, model.config.vocab_size, (1, arguments.prompt))
    decoders = {"ours, fp32": Decoder(model), "ours, int8 weights": Decoder(model, int8=True)}
    made: dict[str, list[int]] = {}

    def theirs() -> None:
        ids = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=arguments.tokens,
            min_new_tokens=arguments.tokens,
            do_sample=False,
            pad_token_id=0,
        )
        made["generate"] = ids[0, arguments.prompt :].tolist()

    def ours(name: str) -> None:
        decoders[name]._seen = []  # else the prompt would be free from the second turn on
        made[name] = decoders[name].generate(prompt[0].tolist(), arguments.tokens, ends=set())

    works = {"generate": theirs, **{name: lambda name=name: ours(name) for name in decoders}}
    seconds = seconds_in_turns(works, arguments.repeats)
    rows = []
    for name, values in seconds.items():
        speeds = [arguments.tokens / value for value in values]
        equal = sum(one == two for one, two in zip(made[name], made["generate"], strict=True))
        faster = summary(ratios(seconds["generate"], values), digits=2)
        rows.append([name, summary(speeds, digits=1), faster, f"{equal} of {arguments.tokens}"])
    print_table(["way", "tokens per CPU second", "times as fast", "tokens equal"], rows)


if __name__ == "__main__":
    main()
