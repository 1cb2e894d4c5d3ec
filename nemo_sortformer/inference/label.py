# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Label sequences of embeddings: files, manifests or arrays in, one answer each out; a bad one costs only itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.embedding_files import (
    EMBEDDING_SUFFIXES,
    EmbeddingEntry,
    EmbeddingError,
    entry_of_arrays,
    read_embedding_manifest,
)
from nemo_sortformer.data.embeddings import check_embeddings
from nemo_sortformer.inference.assign import (
    SpeakerLimits,
    find_segments,
    named_segments,
    order_of_arrival,
    speaker_probs,
)
from nemo_sortformer.inference.diarize import progress
from nemo_sortformer.inference.engine import Failure, evaluating, failure_reason, outputs_or_errors
from nemo_sortformer.inference.labeling import Labeling
from nemo_sortformer.inference.settings import inference_settings
from nemo_sortformer.inference.sources import MANIFEST_SUFFIXES, name_apart
from nemo_sortformer.inference.windows import Outputs

if TYPE_CHECKING:
    from nemo_sortformer.models.labeler.model import SortformerLabeler


class LabelingError(ValueError):
    """Some sequences could not be labeled; `results` holds the others, `failures` says what was wrong."""

    def __init__(self, results: list[Labeling], failures: list[Failure], total: int) -> None:
        self.results, self.failures = results, failures
        shown = "\n".join(f"  `{failure.recording}`: {failure.message}" for failure in failures[:10])
        more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
        super().__init__(f"{len(failures)} of {total} sequences could not be labeled:\n{shown}{more}")


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How a run goes about its sequences."""

    config: InferenceConfig
    batch_size: int = 8
    """Sequences of similar length run at once."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, but is {self.batch_size}.")


def label_files(
    embeddings: Any, *, model: SortformerLabeler | str | Path, device: str | None = None, **options: Any
) -> list[Labeling]:
    """Say which classes are active when, with a model or its .nemo file.

    Args:
        embeddings: files, a folder, manifests, arrays, or a list of these; see :func:`collect_sequences`.
        model: a model or a .nemo file.
        device: where a model that is loaded here runs; None takes a GPU where there is one.
        options: those of :func:`label_sequences`.

    Raises:
        LabelingError: some sequences could not be labeled; it holds the results of the others.
        ValueError: the model or the input is of no use.
    """
    if isinstance(model, (str, Path)):
        from nemo_sortformer.inference.checkpoint import load_labeler

        model = load_labeler(model, device=device)
    return label_sequences(model, embeddings, **options)


def label_sequences(
    model: SortformerLabeler,
    embeddings: Any,
    *,
    lengths: Any = None,
    batch_size: int = 8,
    postprocessing_yaml: str | Path | None = None,
    override_config: Any = None,
    verbose: bool = False,
    failures: list[Failure] | None = None,
) -> list[Labeling]:
    """Say which classes are active when, one :class:`Labeling` per sequence (and kind of label), in the order given.

    Args:
        model: the labeler; its mode (training or evaluation) is put back afterwards.
        embeddings: files, a folder, manifests, arrays, or a list of these; see :func:`collect_sequences`.
        lengths: valid frames per sequence of a padded array (batch, frames, dim).
        batch_size: sequences run at once; the results do not depend on it.
        postprocessing_yaml: thresholds and durations in NeMo's form, instead of the model's own.
        override_config: an `InferenceConfig` or single keys of it; wins over `postprocessing_yaml`.
        verbose: show a progress bar.
        failures: a list that receives what went wrong; without it the run ends with an error that holds the results.

    Raises:
        LabelingError: some sequences could not be labeled and `failures` is None. The others are in it.
        ConfigError: a setting is unknown or wrong.
        ValueError: `embeddings` is of no use as a whole.
    """
    entries = collect_sequences(embeddings, lengths=lengths)
    config = inference_settings(
        model.config.inference, override=override_config, postprocessing_yaml=postprocessing_yaml
    )
    outcomes = run_labeler(model, entries, LabelOptions(config=config, batch_size=batch_size))
    found: dict[int, list[Labeling]] = {}
    failed: dict[int, Failure] = {}
    with progress(len(entries), shown=verbose, task="Labeling") as advance:
        for i, outcome in outcomes:
            if isinstance(outcome, Failure):
                failed[i] = outcome
            else:
                found[i] = outcome
            advance()
    results = [labeling for i in sorted(found) for labeling in found[i]]
    faults = [failed[i] for i in sorted(failed)]
    if failures is not None:
        failures.extend(faults)
    elif faults:
        raise LabelingError(results, faults, len(entries))
    return results


def collect_sequences(embeddings: Any, *, lengths: Any = None) -> list[EmbeddingEntry]:
    """List the sequences in whatever a user gives, with unique names.

    Args:
        embeddings: a path to a file (.npy, .npz, .pt), to a folder (its files of these kinds, sorted by name, without
            sub-folders) or to a manifest (.json, .jsonl); an array or tensor (frames, dim), or padded (batch, frames,
            dim); or a list that mixes these.
        lengths: valid frames per sequence of a padded array, which is then given alone; None: all frames.

    Raises:
        ValueError: a folder without files, a bad manifest, or an object of no use.
    """
    if lengths is not None:
        if not hasattr(embeddings, "ndim") or embeddings.ndim != 3 or len(lengths) != len(embeddings):
            raise ValueError(
                "`lengths` must be given with one array (batch, frames, dim), one number for each of its sequences."
            )
        sequences = [row[: _checked_length(n, len(row))] for row, n in zip(embeddings, lengths, strict=True)]
        return name_apart([entry_of_arrays(row, None, name=f"array_{i}") for i, row in enumerate(sequences)])
    found: list[EmbeddingEntry] = []
    arrays = 0
    for item in embeddings if isinstance(embeddings, (list, tuple)) else [embeddings]:
        if isinstance(item, (str, Path)):
            found.extend(_entries_of_path(Path(item)))
        elif hasattr(item, "ndim"):
            for row in item if item.ndim == 3 else [item]:
                found.append(entry_of_arrays(row, None, name=f"array_{arrays}"))
                arrays += 1
        else:
            raise ValueError(
                "`embeddings` must be a path, a folder, a manifest, an array (frames, dim) or a list of those, but is "
                f"or holds a `{type(item).__name__}`."
            )
    return name_apart(found)


def _checked_length(length: Any, frames: int) -> int:
    if not 0 <= int(length) <= frames:
        raise ValueError(f"`lengths` must be from 0 to {frames}, the frames of the array, but one is {int(length)}.")
    return int(length)


def _entries_of_path(path: Path) -> list[EmbeddingEntry]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in EMBEDDING_SUFFIXES and p.is_file())
        if not files:
            raise ValueError(
                f"`{path}` has no embeddings ({' '.join(EMBEDDING_SUFFIXES)}). Sub-folders are not searched: name "
                "them one by one, or write a manifest."
            )
        return [EmbeddingEntry(name=p.stem, path=p) for p in files]
    if path.suffix in MANIFEST_SUFFIXES:
        return read_embedding_manifest(path)
    return [EmbeddingEntry(name=path.stem, path=path)]


def run_labeler(
    model: SortformerLabeler, entries: Sequence[EmbeddingEntry], options: LabelOptions
) -> Iterator[tuple[int, list[Labeling] | Failure]]:
    """Label sequences one batch after the other, the longest first, and give each as soon as it is done.

    A sequence without frames gives an empty answer. Memory holds one batch; what has been given is not kept.

    Returns:
        An iterator over pairs: the place of the sequence in `entries`, and its results, one per kind of label, or what
        was wrong with it.

    Raises:
        ConfigError: the settings cannot work for any sequence; raised before the iterator is.
    """
    if options.config.assignment == "clustering" and (model.affinity_head is None or len(model.num_classes) > 1):
        raise ConfigError(
            "`assignment` is `clustering`, which needs a model with affinity embeddings and one kind of label. Set it "
            "to `heads`, or train with `model.affinity`."
        )
    return _outcomes(model, entries, options)


def _outcomes(
    model: SortformerLabeler, entries: Sequence[EmbeddingEntry], options: LabelOptions
) -> Iterator[tuple[int, list[Labeling] | Failure]]:
    lengths: dict[int, int] = {}
    for i, entry in enumerate(entries):
        try:
            lengths[i] = len(entry.open())
        except (EmbeddingError, OSError) as error:
            yield i, Failure(entry.name, failure_reason(error))
    order = sorted(lengths, key=lambda i: -lengths[i])
    with evaluating(model):
        for first in range(0, len(order), options.batch_size):
            good: list[int] = []
            sequences: list[NDArray[np.float32]] = []
            for i in order[first : first + options.batch_size]:
                try:
                    sequences.append(_read(entries[i], model.config.input_dim))
                    good.append(i)
                except (EmbeddingError, OSError, MemoryError) as error:
                    yield i, Failure(entries[i].name, failure_reason(error))
            for i, outputs in zip(good, outputs_or_errors(sequences, lambda b: _run(model, b)), strict=True):
                yield i, _finish(model, entries[i], outputs, options)


def _read(entry: EmbeddingEntry, input_dim: int) -> NDArray[np.float32]:
    try:
        return check_embeddings(entry.open(), input_dim)
    except EmbeddingError as error:
        where = f"{entry.where}: "
        raise EmbeddingError(where + str(error).removeprefix(where)) from error


def _run(model: SortformerLabeler, sequences: list[NDArray[np.float32]]) -> list[Outputs]:
    """Run sequences as one batch; each result is cut to its own length."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = torch.zeros(len(sequences), max(int(lengths.max()), 1), sequences[0].shape[1])
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = torch.from_numpy(sequence)
    with torch.inference_mode():
        output = model(embeddings=padded.to(model.device), lengths=lengths.to(model.device))
        probs = output.probs.float().cpu().numpy()
        vectors = None if output.embeddings is None else output.embeddings.float().cpu().numpy()
    return [
        Outputs(probs[i, :n].copy(), None if vectors is None else vectors[i, :n].copy())
        for i, n in enumerate(lengths.tolist())
    ]


def _finish(
    model: SortformerLabeler, entry: EmbeddingEntry, outputs: Outputs | Exception, options: LabelOptions
) -> list[Labeling] | Failure:
    if isinstance(outputs, Exception):
        return Failure(entry.name, failure_reason(outputs))
    try:
        return [
            _labeling(entry, outputs._replace(probs=outputs.probs[:, kind.columns]), kind.name, model, options.config)
            for kind in model.label_columns()
        ]
    except ConfigError:
        raise
    except (RuntimeError, ValueError, MemoryError) as error:
        return Failure(entry.name, failure_reason(error))


def _labeling(
    entry: EmbeddingEntry, outputs: Outputs, kind: str, model: SortformerLabeler, config: InferenceConfig
) -> Labeling:
    seconds = entry.frame_seconds or model.frame_seconds
    duration = len(outputs.probs) * seconds
    probs = speaker_probs(outputs, config, SpeakerLimits()) if len(outputs.probs) else outputs.probs
    columns = find_segments(probs, config, frame_seconds=seconds, max_seconds=duration)
    order = order_of_arrival(columns)
    return Labeling(
        recording=entry.name,
        segments=named_segments(columns, order, prefix=kind or "class"),
        probs=probs[:, order],
        slots=tuple(order),
        frame_seconds=seconds,
        duration=duration,
        source=entry.path,
        kind=kind,
    )
