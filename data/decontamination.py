"""Does a text share 13 words in a row with the evaluation texts? `Contaminated(["gsm8k_test.jsonl"])(text)`.

Words are what is left when letters are made small and punctuation is removed. The evaluation texts are sources, as
sources.py reads them; those of less than 13 words cannot be met again and are counted in `too_short`. Not here:
dropping and counting (prepare.py).
"""

import re
from collections.abc import Iterator, Sequence

from yxanul.bad_input import BadInput
from yxanul.data.sources import open_source

WORDS_IN_A_ROW = 13
# Any 13 words in a row hold 5 words that begin at a multiple of 9: one lookup for nine words, not for each
PROBE = 5


class Contaminated:
    def __init__(self, sources: Sequence[str]):
        self.too_short = 0
        self._runs: set[str] = set()
        self._probes: set[str] = set()
        for part in (part for source in sources for part in open_source(source).parts()):
            for document in part.documents():
                words = _words(document.text)
                self.too_short += len(words) < WORDS_IN_A_ROW
                if len(words) >= WORDS_IN_A_ROW:
                    self._runs.update(_runs(words, WORDS_IN_A_ROW))
                    self._probes.update(_runs(words, PROBE))
        if not self._runs:
            raise BadInput(
                f"{', '.join(sources)}: no evaluation text has {WORDS_IN_A_ROW} words, nothing to be found again."
            )

    def __call__(self, text: str) -> bool:
        words = _words(text)
        stride = WORDS_IN_A_ROW - PROBE + 1
        for start in range(0, len(words) - PROBE + 1, stride):
            if " ".join(words[start : start + PROBE]) in self._probes and self._run_around(words, start):
                return True
        return False

    def _run_around(self, words: list[str], probe: int) -> bool:
        first, last = max(0, probe + PROBE - WORDS_IN_A_ROW), min(probe, len(words) - WORDS_IN_A_ROW)
        return any(" ".join(words[start : start + WORDS_IN_A_ROW]) in self._runs for start in range(first, last + 1))


def _runs(words: list[str], length: int) -> Iterator[str]:
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


def _words(text: str) -> list[str]:
    return re.sub(r"[^\w\s]", "", text.lower()).split()
