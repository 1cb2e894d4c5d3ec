# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Draw what each SortFormer layer takes the labels to be, before and after it sorts them, beside the truth.

    python examples/show_permutation_encoding.py meeting.wav --reference meeting.rttm --out encoding.png
    python examples/show_permutation_encoding.py embeddings.npz --model labeler.nemo --out encoding.png

Audio goes to a diarizer (by default the one that ships with the package), embeddings to the labeler of `--model`.
Labels that stand beside the embeddings in an .npz or .pt file are the truth where no `--reference` is given.
"""

import argparse
from pathlib import Path

import numpy as np

from nemo_sortformer.cli.console import quiet_nemo
from nemo_sortformer.data.audio import read_audio
from nemo_sortformer.data.embedding_files import EMBEDDING_SUFFIXES, EmbeddingEntry
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.checkpoint import load_labeler, load_model
from nemo_sortformer.inference.encoding_picture import plot_encoding, trace_encoding
from nemo_sortformer.inference.labeling import label_segments
from nemo_sortformer.inference.score_inputs import read_truth


def main() -> None:
    """Run one sequence, draw one picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, help="audio, or embeddings (.npy, .npz, .pt)")
    parser.add_argument("--model", type=Path, help="a .nemo file; default for audio: the shipped diarizer")
    parser.add_argument("--reference", type=Path, help="RTTM with the truth")
    parser.add_argument("--seconds", type=float, default=30.0, help="so much of audio, from its start")
    parser.add_argument("--out", type=Path, default=Path("permutation_encoding.png"), help="PNG, PDF or SVG")
    arguments = parser.parse_args()
    quiet_nemo(verbose=False)
    truth: list[Segment] | None = None
    if arguments.input.suffix in EMBEDDING_SUFFIXES:
        if arguments.model is None:
            parser.error("embeddings need the `--model` of a labeler")
        model = load_labeler(arguments.model)
        entry = EmbeddingEntry(name=arguments.input.stem, path=arguments.input)
        sequence, labels = np.array(entry.open(), dtype=np.float32), entry.open_labels(next(iter(model.num_classes)))
        if labels is not None:
            truth = label_segments(labels, frame_seconds=model.frame_seconds)
    else:
        model = load_model(arguments.model)
        sequence = read_audio(arguments.input, duration=arguments.seconds, sample_rate=model.config.sample_rate)
    trace = trace_encoding(model, sequence)
    end = len(trace.probs) * trace.frame_seconds
    if arguments.reference is not None:
        found = read_truth(arguments.reference)
        truth = found.get(arguments.input.stem) or next(iter(found.values()), [])
    if truth is not None:
        truth = [Segment(s.start, min(s.end, end), s.speaker) for s in truth if s.start < end]
    plot_encoding(trace, truth=truth, path=arguments.out, title=arguments.input.stem)
    print(f"{arguments.out}: {len(trace.layers)} layers, {len(trace.probs)} frames.")


if __name__ == "__main__":
    main()
