"""The files in which the authors' weights come -> the tensors in them."""

import re
from pathlib import Path
from typing import NamedTuple, TypeGuard

from torch import Tensor

from models.authors.unpickle import StandIn, module_tensors, read_inert

#: Where training code keeps weights, the averaged ones first.
HOLDERS = ("ema", "model", "state_dict", "model_state_dict")
#: What stands before the authors' names: `module.` of DDP, `_orig_mod.` of torch.compile, `net.`.
WRAPPERS = re.compile(r"(?:[A-Za-z_]\w*\.)*?(?=model\.\d+\.)")


class Found(NamedTuple):
    """The tensors of one of the authors' files and, in words, which of its objects held them."""

    state: dict[str, Tensor]
    held_by: str


def read_authors_file(path: str | Path) -> Found:
    """Read a published `.pt` (pickled network objects) or a plain state_dict file.

    Takes the averaged network ("ema") where there is one, else "model" or "state_dict"; names lose
    the prefix they share. Nothing in the file is executed. Raises ValueError, naming the file, if
    it holds no tensors there.
    """
    content = read_inert(path)
    found = find_tensors(content)
    if found:
        return Found(unwrapped(found.state), found.held_by)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a dict")
    expected = "expected 'ema', 'model', 'state_dict' or tensors"
    raise ValueError(f"{path}: holds keys {[*content][:5]}, {expected}")


def find_tensors(content: object, place: str = "", depth: int = 2) -> Found | None:
    """Those of a network or state_dict that stands here or, up to `depth` holders deep, inside."""
    if isinstance(content, StandIn) and (state := module_tensors(content)):
        return Found(state, type(content).__name__ + place)
    if is_state_dict(content):
        return Found(content, f"{'' if place else 'plain '}state_dict{place}")
    if isinstance(content, dict) and depth:
        for key in HOLDERS:
            if found := find_tensors(content.get(key), f" under {key!r}", depth - 1):
                return found
    return None


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names from their `model.<number>.` on, if what stands before is the same for all of them."""
    matches = {name: WRAPPERS.match(name) for name in state}
    prefixes = {match.group() for match in matches.values() if match}
    if len(prefixes) != 1:
        return state
    (prefix,) = prefixes
    return {name.removeprefix(prefix) if matches[name] else name: t for name, t in state.items()}


def is_state_dict(content: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(tensor, Tensor) for tensor in content.values())
    )
