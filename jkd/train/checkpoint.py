"""Orbax checkpoints of everything that lives, checked on the way back in."""

import logging
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LOG = logging.getLogger("jkd")


class Damaged(RuntimeError):
    """No checkpoint of a run can be read; the run does not start anew by itself."""


class Checkpoints:
    """The newest checkpoints of a run and, beside them, the best by a score.

    Each holds the leaves of a tree under their paths and a checksum of each leaf, written in one atomic step. PRNG
    keys are stored as their data; leaves without entries are not stored.

    Args:
      directory: `steps/` and `best/` are made below it.
      keep: number of newest checkpoints that are kept.
    """

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        """Opens or makes the folders."""
        self._newest = _manager(directory / "steps", keep)
        self._best = _manager(directory / "best", 1)

    def save(self, step: int, tree: Any) -> None:
        """Saves a step; it is offered only once all of it is on disk."""
        _save(self._newest, step, tree)

    def save_best(self, step: int, tree: Any, score: float) -> None:
        """Saves a step as the best so far."""
        _save(self._best, step, tree, score=score)

    def best_score(self) -> float | None:
        """The score of the best step, or None."""
        step = self._best.latest_step()
        return None if step is None else float(_restore_note(self._best, step)["score"])

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Restores the newest checkpoint that is whole.

        Args:
          like: a tree of arrays or shapes with the structure to restore; shardings are taken from it.

        Returns:
          `(step, tree)`, or None if nothing was ever saved.

        Raises:
          Damaged: if there are checkpoints but none can be read.
          ValueError: if a checkpoint is whole but of another network or configuration.
        """
        return _newest_whole(self._newest, like)

    def restore_best(self, like: Any) -> tuple[int, Any] | None:
        """Restores the best checkpoint; as `restore`."""
        return _newest_whole(self._best, like)

    def wait(self) -> None:
        """Returns once all that was saved is on disk."""
        self._newest.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the folders."""
        self._newest.close()
        self._best.close()


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path; PRNG keys as their data, leaves without entries left out."""
    flat = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf) if _is_shape(leaf) else jax.random.key_data(leaf)
        if leaf.size:
            flat[jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    return flat


def unflatten(flat: dict[str, Any], like: Any) -> Any:
    """The inverse of `flatten`, in the structure of `like`."""

    def leaf(path: Any, ref: Any) -> Any:
        value = flat.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        if jnp.issubdtype(ref.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(value))
        return jnp.zeros(ref.shape, ref.dtype) if value is None else value

    return jax.tree_util.tree_map_with_path(leaf, like)


def checksums(flat: dict[str, Any]) -> dict[str, int]:
    """CRC-32 of each leaf's bytes."""
    return {name: zlib.crc32(np.asarray(jax.device_get(leaf)).tobytes()) for name, leaf in flat.items()}


def _manager(directory: Path, keep: int) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(directory.absolute(), options=options, item_names=("tree", "note"))


def _save(manager: Any, step: int, tree: Any, **note: Any) -> None:
    import orbax.checkpoint as ocp

    flat = flatten(tree)
    note = {"checksums": checksums(flat), "shapes": {name: list(leaf.shape) for name, leaf in flat.items()}, **note}
    manager.save(step, args=ocp.args.Composite(tree=ocp.args.StandardSave(flat), note=ocp.args.JsonSave(note)))


def _restore_note(manager: Any, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    return manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore()))["note"]


def _newest_whole(manager: Any, like: Any) -> tuple[int, Any] | None:
    """Tries the steps from the newest back."""
    steps = sorted(manager.all_steps(), reverse=True)
    flat = flatten(like)
    for step in steps:
        try:
            note = _restore_note(manager, step)
            differing = _differences(note["shapes"], flat)
            restored = None if differing else _restore_tree(manager, step, flat)
            if restored is not None and checksums(restored) != note["checksums"]:
                raise ValueError("the checksums of its arrays do not agree")
        except Exception as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            _LOG.warning(
                "checkpoint %s is damaged (%s); trying the one before it.", manager.directory / str(step), line
            )
            continue
        if differing:
            raise ValueError(
                f"the checkpoint {manager.directory / str(step)} is of another network or configuration: "
                f"{'; '.join(differing[:5])}{' …' if len(differing) > 5 else ''}. Use another workdir."
            )
        return step, unflatten(restored or {}, like)
    if steps:
        raise Damaged(
            f"none of the checkpoints in {manager.directory} can be read (steps {steps}). Restore that folder from a "
            "copy, or start anew in another workdir."
        )
    return None


def _restore_tree(manager: Any, step: int, flat: dict[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    def abstract(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))

    targets = {name: abstract(leaf) for name, leaf in flat.items()}
    return manager.restore(step, args=ocp.args.Composite(tree=ocp.args.StandardRestore(targets)))["tree"]


def _differences(shapes: dict[str, list[int]], flat: dict[str, Any]) -> list[str]:
    """What a checkpoint has otherwise than the run that wants it."""
    found = [f"{name} is missing" for name in sorted(set(flat) - set(shapes))]
    found += [f"{name} is not wanted" for name in sorted(set(shapes) - set(flat))]
    for name in sorted(set(shapes) & set(flat)):
        if tuple(shapes[name]) != flat[name].shape:
            found.append(f"{name} has shape {tuple(shapes[name])}, expected {flat[name].shape}")
    return found


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
