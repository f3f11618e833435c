"""Where in the dict of a torch file the weights are, and what describes them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from radio.checkpoints.guard import brief, listing
from radio.checkpoints.hub_repo import CONFIG, read_json
from radio.checkpoints.layouts.descriptions import Description, find_description, is_arguments, is_own
from radio.checkpoints.layouts.roots import find_roots, is_teacher, refuse_vit_alone
from radio.checkpoints.plain import plain_fields
from radio.errors import CheckpointError

_STATE_DICTS = ("model", "model_state_dict", "model_state", "module", "student", "network", "net", "weights")
"""Where training programs keep the weights, besides ``state_dict_ema`` and ``state_dict``."""

_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
"""Where they keep averaged weights (EMA), which come before others."""

_DESCRIPTIONS = ("config", "hyper_parameters", "hparams", "cfg")
"""Where they keep what describes the model, besides ``args``."""


def find_state_dict(content: Mapping[str, Any], path: Path) -> Any:
    """The state dict: EMA weights where there are any.

    Raises:
        CheckpointError: There is none, or several.
    """
    for name in _AVERAGES:
        if _holds_tensors(content.get(name)) and (name == _AVERAGES[0] or find_roots(content[name])):
            return content[name]
    if content.get("state_dict") is not None:
        return content["state_dict"]
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return content
    found = {name: content[name] for name in _STATE_DICTS if _holds_tensors(content.get(name))}
    if len(found) > 1:
        found = {name: state for name, state in found.items() if find_roots(state)}
    if not found:  # under a name of the user's own
        found = {
            name: state
            for name, state in content.items()
            if isinstance(name, str) and not is_teacher(name) and _holds_tensors(state) and find_roots(state)
        }
    if len(found) > 1:
        raise CheckpointError(
            f"{path} holds several state dicts ({listing(found)}); save the one that you want as 'state_dict'"
        )
    if not found:
        raise _not_ours(content, path)
    return next(iter(found.values()))


def _holds_tensors(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    return any(isinstance(item, Tensor) for item in value.values())


def describe_content(content: Mapping[str, Any], path: Path) -> Description:
    """What describes the model of a torch file.

    Raises:
        CheckpointError: Nothing does; the message says how to add it.
    """
    source, args = str(path), content.get("args")
    others = {
        name: content[name] for name in _DESCRIPTIONS if isinstance(content.get(name), (Mapping, Namespace))
    }
    if isinstance(args, (Namespace, Mapping)) and not is_own(others.get("config")):
        fields = plain_fields(args, source)
        if is_arguments(fields):
            return Description("repository", {"args": fields})
    found = find_description(plain_fields(others, source), source) if others else None
    if found is not None:  # inside what a training program wrote, not inside a larger model
        return Description(found.kind, found.fields)
    if "args" in content:
        if not isinstance(args, (Namespace, Mapping)):
            raise CheckpointError(
                f"{path}: 'args' is a {type(args).__name__}, expected a Namespace or a dict"
            )
        return Description("repository", {"args": plain_fields(args, source)})
    if (path.parent / CONFIG).is_file():
        fields = plain_fields(read_json(path.parent / CONFIG), str(path.parent / CONFIG))
        beside = find_description(fields, str(path.parent / CONFIG))
        if beside is not None:
            return beside
    raise _undescribed(content, path)


def _not_ours(content: Mapping[str, Any], path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a RADIO checkpoint: it needs 'args' and 'state_dict' (or 'state_dict_ema'), "
        f"but holds {brief(list(content))}"
    )


def _undescribed(content: Mapping[str, Any], path: Path) -> CheckpointError:
    state = find_state_dict(content, path)
    if not isinstance(state, Mapping) or not find_roots(
        [n for n in state if isinstance(n, str)], anywhere=True
    ):
        names = state if isinstance(state, Mapping) else ()
        refuse_vit_alone([name for name in names if isinstance(name, str)], path)
        return _not_ours(content, path)
    return CheckpointError(
        f"{path} holds weights but nothing that describes the model. Put the config.json that belongs to them beside "
        "it; or save {'state_dict': model.state_dict(), 'config': model.config.to_dict()}; or load the model that they "
        "were trained from and call model.load_state_dict(torch.load(path))"
    )
