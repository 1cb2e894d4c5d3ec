# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What stands before the text of a decoder: the begin, or a prompt of NeMo's that says what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer


def prompt_ids(tokenizer: SpeakerTokenizer, prompt: Mapping[str, Any], *, where: str) -> list[int]:
    """The tokens before the text.

    Args:
        tokenizer: of the text.
        prompt: `format`, a prompt format of NeMo, and what it is told; empty for none.
        where: names the setting in messages.

    Returns:
        The prompt, which begins as NeMo's format says; without one `bos` alone.

    Raises:
        ConfigError: there is no such format, it is told too little or too much, or the tokenizer lacks its tokens.
    """
    if not prompt:
        return [tokenizer.bos_id]
    from nemo.collections.common.prompts import PromptFormatter

    # `no` and `yes` of a YAML are true and false
    slots = {key: ("no", "yes")[value] if isinstance(value, bool) else str(value) for key, value in prompt.items()}
    name = slots.pop("format", None)
    try:
        formatter = PromptFormatter.resolve(name)(tokenizer.tokenizer)
        unknown = sorted(set(slots) - set(formatter.get_slots("user")))
        if unknown:
            raise KeyError(f"`{unknown[0]}` is no part of it; it has {', '.join(formatter.get_slots('user'))}")
        ids = formatter.encode_dialog([{"role": "user", "slots": slots}])["input_ids"].tolist()
    except (KeyError, AssertionError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error.args[0] if error.args else error).strip().partition("\n")[0]
        raise ConfigError(
            f"`{where}` must have the `format` of a prompt of NeMo, as `canary`, and all of its parts in tokens that "
            f"the tokenizer has, but `{dict(prompt)}` does not: {reason}"
        ) from error
    return [int(index) for index in ids]
