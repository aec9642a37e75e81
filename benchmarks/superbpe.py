"""SuperBPE against BPE at the same vocabulary: characters per token on held-out text, training time and memory.

Run: python benchmarks/superbpe.py [--vocabulary 16000] [--megabytes 2 5 10] [--held-out 0.05] [--repeats 3]
Text is the English and the source code of Python's own library, without duplicates, held out by file. Each training
has a process of its own; its memory is the peak above the texts. "On lines" cuts the texts before the training, as
others do; t is the vocabulary up to which tokens are words. Both kinds take numbers in groups.
Not here: what a model makes of the tokens (bits per byte), other languages, texts that repeat less or more.
"""

import argparse
import hashlib
import statistics
import time
from collections import Counter

from measuring import in_own_process, peak_growth, print_header, print_table, summary, use_one_thread

DOMAINS = ("language", "code")
WORDS_SHARES = {
    "bpe": None,
    "superbpe, t = 0.4 V": 0.4,
    "superbpe, t = 0.9 V": 0.9,
    "superbpe, t = 0.4 V, on lines": 0.4,
}


def corpus(held_out: float) -> tuple[list[str], dict[str, list[str]]]:
    """Training texts of both domains in an order that mixes them, and the held-out ones of each."""
    from yxanul.data.documents import is_held_out
    from yxanul.data.sources import open_source

    training: set[str] = set()
    held: dict[str, list[str]] = {}
    for domain in DOMAINS:
        parts = open_source(f"builtin:{domain}").parts()
        documents = [document for part in parts for document in part.documents(Counter())]
        held[domain] = [document.text for document in documents if is_held_out(document.group, held_out)]
        training.update(document.text for document in documents if not is_held_out(document.group, held_out))
    return sorted(training, key=lambda text: hashlib.sha256(text.encode()).digest()), held


def first_bytes(texts: list[str], size: int) -> list[str]:
    taken = []
    for text in texts:
        content = text.encode()[:size]
        taken.append(content.decode(errors="ignore"))
        size -= len(content)
        if size <= 0:
            return taken
    raise SystemExit(f"the corpus is {size:,} bytes too small; give smaller --megabytes.")


def trained(kind: str, texts: list[str], vocabulary: int, held: dict[str, list[str]]) -> dict[str, float]:
    """One training in this process: CPU seconds, megabytes, and characters per token of each domain."""
    from yxanul.data.train_tokenizer import train_bpe, train_superbpe

    if kind.endswith("on lines"):
        texts = [line for text in texts for line in text.splitlines(keepends=True)]
    share = WORDS_SHARES[kind]
    made = []

    def work():
        began = time.process_time()
        if share is None:
            made.append(train_bpe(texts, vocabulary, "groups"))
        else:
            made.append(train_superbpe(texts, vocabulary, int(share * vocabulary), "groups"))
        made.append(time.process_time() - began)

    megabytes = peak_growth(work)
    tokenizer, seconds = made
    facts = {"seconds": seconds, "megabytes": megabytes}
    for domain, documents in held.items():
        tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(documents))
        facts[domain] = sum(map(len, documents)) / tokens
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[2, 5, 10])
    parser.add_argument("--held-out", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    use_one_thread()
    print_header()
    import tokenizers

    texts, held = corpus(arguments.held_out)
    sizes = ", ".join(f"{domain} {sum(map(len, documents)):,}" for domain, documents in held.items())
    print(f"tokenizers {tokenizers.__version__}, vocabulary {arguments.vocabulary:,}; held out, characters: {sizes}\n")
    rows = []
    for megabytes in arguments.megabytes:
        taken = first_bytes(texts, megabytes * 10**6)
        for kind in WORDS_SHARES:
            work = (trained, kind, taken, arguments.vocabulary, held)
            runs = [in_own_process(*work) for _ in range(arguments.repeats)]
            rows.append(
                [
                    kind,
                    f"{megabytes} MB",
                    *(f"{runs[0][domain]:.3f}" for domain in DOMAINS),
                    summary([run["seconds"] for run in runs], digits=1),
                    f"{statistics.median(run['megabytes'] for run in runs):,.0f} MB",
                ]
            )
    headings = ["", "corpus", *(f"characters per token, {domain}" for domain in DOMAINS)]
    print_table([*headings, "CPU s, median (range)", "peak memory"], rows)


if __name__ == "__main__":
    main()
