"""A data set of the Hub, streamed: `hf:owner/name` with config, split (default train), revision, and columns.

Needs the optional package `datasets`. The revision is turned into a commit when the source is opened, so that all
parts read the same data; private data sets need a token where huggingface_hub looks for one (HF_TOKEN, or a login).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from yxanul.bad_input import BadInput
from yxanul.data.columns import Columns, kind_of
from yxanul.data.documents import Finding
from yxanul.data.hub_reach import offline_where_no_hub_is


class HubSplit(NamedTuple):
    """What is streamed."""

    name: str
    config: str | None
    split: str
    commit: str


@dataclass(frozen=True)
class HubShard:
    """One of the shards that the data set itself is made of: a file, most often."""

    origin: HubSplit
    shard: int
    shards: int
    columns: Columns

    def findings(self) -> Iterator[Finding]:
        try:
            records = _stream(self.origin).shard(num_shards=self.shards, index=self.shard)
            for row, record in enumerate(records, 1):
                yield self.columns.finding(record, f"hf:{self.origin.name}, shard {self.shard}, row {row}")
        except Exception as error:  # after the retries of datasets; what its readers raise has no common class
            raise _refused(self.origin.name, "read to its end", error) from None


def open_split(name: str, config: str | None, split: str, revision: str | None) -> HubSplit:
    """Asks the Hub which commit the revision is."""
    offline_where_no_hub_is()
    _datasets()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        commit = HfApi().dataset_info(name, revision=revision).sha
    except GatedRepoError:
        raise BadInput(f"hf:{name} is gated: accept its terms on the Hub, and let HF_TOKEN hold a token.") from None
    except RepositoryNotFoundError:
        raise BadInput(f"hf:{name} is not there, or private: let HF_TOKEN hold a token that may read it.") from None
    except RevisionNotFoundError:
        raise BadInput(f"hf:{name} has no revision {revision!r}.") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _refused(name, "opened", error) from None
    return HubSplit(name, config, split, str(commit))


def readers_of(origin: HubSplit, columns: Columns) -> list[HubShard]:
    """The readers of all shards; the first row says which columns there are."""
    try:
        stream = _stream(origin)
        first = list(islice(stream, 1))
    except Exception as error:  # builders raise whatever they like for a wrong config, split, or broken file
        raise _refused(origin.name, "opened", error) from None
    if first:
        columns = columns.resolved({name: kind_of(value) for name, value in first[0].items()}, f"hf:{origin.name}")
    return [HubShard(origin, shard, stream.num_shards, columns) for shard in range(stream.num_shards)]


@lru_cache(maxsize=4)
def _stream(origin: HubSplit) -> Any:
    """Opened once in a process: it takes several requests."""
    return _datasets().load_dataset(
        origin.name, origin.config, split=origin.split, revision=origin.commit, streaming=True
    )


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise BadInput('a data set of the Hub needs the package datasets: pip install "yxanul[data]".') from None
    return datasets


def _refused(name: str, what: str, error: Exception) -> BadInput:
    reason = " ".join(str(error).split()) or type(error).__name__
    return BadInput(f"hf:{name} cannot be {what}: {reason.rstrip('.')}.")
