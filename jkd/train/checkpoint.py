"""Orbax checkpoints of everything that lives, checked on the way back in."""

import contextlib
import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

_LOG = logging.getLogger("jkd")


class Damaged(RuntimeError):
    """No checkpoint of a run can be read; the run does not start anew by itself."""


class Checkpoints:
    """The newest checkpoints of a run and, beside them, the best by a score.

    Each holds the leaves of a tree under their paths and a checksum of each leaf, written in one atomic step. PRNG
    keys are stored as their data; leaves without entries are not stored.

    An older checkpoint is deleted only once one of the newest has been read back and is whole. (Arrays that are split
    over several processes are guarded by Orbax's own checksums alone, and are not read back.)

    Args:
      directory: `steps/` and `best/` are made below it; `damaged/` is where unreadable steps are put once the run goes
        on from an earlier one.
      keep: number of newest checkpoints that are kept.
    """

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        """Opens or makes the folders."""
        self._keep = keep
        self._like: dict[str, Any] = {}
        self._newest = _manager(directory / "steps", None)
        self._best = _manager(directory / "best", 1)

    def save(self, step: int, tree: Any) -> None:
        """Saves a step; it is offered only once all of it is on disk.

        Raises:
          OSError: if this or an earlier step could not be written.
        """
        self.wait()  # for the best as well: a step after it must not be offered without it
        self._delete_old()
        flat = flatten(tree)
        self._like = {name: _abstract(leaf) for name, leaf in flat.items()}
        with _writing(self._newest, step):
            _save(self._newest, step, flat)

    def save_best(self, step: int, tree: Any, score: float) -> None:
        """Saves a step as the best so far."""
        with _writing(self._best, step):
            _save(self._best, step, flatten(tree), score=score)

    def steps(self) -> list[int]:
        """The newest steps that were saved, whole or damaged."""
        return sorted(self._newest.all_steps())

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
        for manager in (self._best, self._newest):
            with _writing(manager, manager.latest_step()):
                manager.wait_until_finished()

    def close(self) -> None:
        """Waits, deletes what is too old, and releases the folders."""
        with contextlib.ExitStack() as stack:
            for manager in (self._newest, self._best):
                stack.callback(_release, manager)
            self.wait()
            self._delete_old()

    def _delete_old(self) -> None:
        """Deletes all but the newest steps, if one of those can be read."""
        steps = sorted(self._newest.all_steps(), reverse=True)
        kept, old = steps[: self._keep], steps[self._keep :]
        if old and any(self._whole(step) for step in kept):
            for step in old:
                self._newest.delete(step)

    def _whole(self, step: int) -> bool:
        """Whether a finished step can be read back; warns if not."""
        if jax.process_count() > 1:
            return True
        try:
            _read(self._newest, step, self._like)
        except Exception as error:
            _LOG.warning(
                "checkpoint %s is damaged (%s); older ones are kept.",
                self._newest.directory / str(step),
                _first_line(error),
            )
            return False
        return True


def abstract(tree: Any) -> Any:
    """The shapes and shardings of a tree's arrays, in place of the arrays; PRNG keys, which are small, stay."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else _abstract(x), tree)


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
    """CRC-32 of the bytes of each leaf that this process can see the whole of."""
    seen = {name: leaf for name, leaf in flat.items() if leaf.is_fully_addressable or leaf.is_fully_replicated}
    return {name: zlib.crc32(np.asarray(jax.device_get(leaf)).tobytes()) for name, leaf in seen.items()}


def _manager(directory: Path, keep: int | None) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(directory.absolute(), options=options, item_names=("tree", "note"))


def _save(manager: Any, step: int, flat: dict[str, Any], **note: Any) -> None:
    import orbax.checkpoint as ocp

    note = {"checksums": checksums(flat), "shapes": {name: list(leaf.shape) for name, leaf in flat.items()}, **note}
    note["own_checksum"] = _checksum_of_note(note)
    manager.save(step, args=ocp.args.Composite(tree=ocp.args.StandardSave(flat), note=ocp.args.JsonSave(note)))


def _restore_note(manager: Any, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    note = manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore()))["note"]
    if note.pop("own_checksum") != _checksum_of_note(note):
        raise ValueError("the checksum of its note does not agree")
    return note


def _checksum_of_note(note: dict[str, Any]) -> int:
    """CRC-32, so that a damaged note is not taken for that of another network."""
    return zlib.crc32(json.dumps(note, sort_keys=True).encode())


def _newest_whole(manager: Any, like: Any) -> tuple[int, Any] | None:
    """Tries the steps from the newest back."""
    steps = sorted(manager.all_steps(), reverse=True)
    flat = flatten(like)
    for step in steps:
        try:
            restored = _read(manager, step, flat)
        except _Differs as error:
            raise ValueError(str(error)) from None
        except Exception as error:
            path = manager.directory / str(step)
            _LOG.warning("checkpoint %s is damaged (%s); trying the one before it.", path, _first_line(error))
            continue
        _put_aside(manager, [other for other in steps if other > step])
        return step, unflatten(restored, like)
    if steps:
        raise Damaged(
            f"none of the checkpoints in {manager.directory} can be read (steps {steps}). Restore that folder from a "
            "copy, or start anew in another workdir."
        )
    return None


class _Differs(ValueError):
    """A checkpoint is whole but of another run."""


def _read(manager: Any, step: int, flat: dict[str, Any]) -> dict[str, Any]:
    """The leaves of a step, checked; raises whatever is wrong with it."""
    note = _restore_note(manager, step)
    differing = _differences(note["shapes"], flat)
    if differing:
        raise _Differs(
            f"the checkpoint {manager.directory / str(step)} is of another network or configuration: "
            f"{'; '.join(differing[:5])}{' …' if len(differing) > 5 else ''}. Use another workdir."
        )
    restored = _restore_tree(manager, step, flat)
    if checksums(restored) != note["checksums"]:
        raise ValueError("the checksums of its arrays do not agree")
    return restored


def _put_aside(manager: Any, steps: list[int]) -> None:
    """Moves damaged steps out of the way, so that the steps of the same numbers can be saved anew."""
    if not steps:
        return
    aside = manager.directory.parent / "damaged"
    if jax.process_index() == 0:
        aside.mkdir(exist_ok=True)
        for step in steps:
            shutil.rmtree(aside / str(step), ignore_errors=True)
            (manager.directory / str(step)).rename(aside / str(step))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jkd_put_aside")
    manager.reload()


@contextlib.contextmanager
def _writing(manager: Any, step: int | None) -> Iterator[None]:
    """Says which step could not be written, whatever Orbax raises."""
    try:
        yield
    except Exception as error:
        raise OSError(
            f"step {step} could not be saved in {manager.directory} ({_first_line(error)}). Look whether the disk is "
            "full; started again, the run goes on from the checkpoint before."
        ) from error


def _release(manager: Any) -> None:
    """Closes a manager; what it failed to write has been said already."""
    with contextlib.suppress(Exception):
        manager.close()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _restore_tree(manager: Any, step: int, flat: dict[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    targets = {name: _abstract(leaf) for name, leaf in flat.items()}
    return manager.restore(step, args=ocp.args.Composite(tree=ocp.args.StandardRestore(targets)))["tree"]


def _differences(shapes: dict[str, list[int]], flat: dict[str, Any]) -> list[str]:
    """What a checkpoint has otherwise than the run that wants it."""
    found = [f"{name} is missing" for name in sorted(set(flat) - set(shapes))]
    found += [f"{name} is not wanted" for name in sorted(set(shapes) - set(flat))]
    for name in sorted(set(shapes) & set(flat)):
        if tuple(shapes[name]) != flat[name].shape:
            found.append(f"{name} has shape {tuple(shapes[name])}, expected {flat[name].shape}")
    return found


def _abstract(leaf: Any) -> Any:
    """Shape, dtype and sharding of a leaf."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
