"""The source that runs were executed from, out of git: their commits, and what was uncommitted, in scratch folders.

Each is a repository of its own that borrows the objects of the project's. To that nothing is added, no worktree is
entered there: whoever is killed leaves nothing behind but a temporary folder, which the next process removes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.workflow import names
from resflow.workflow.environment import CHANGES, ENVIRONMENT, is_cut_off, kept_environment
from resflow.workflow.limits import first_line, listed
from resflow.workflow.parameters import effective_values
from resflow.workflow.project import project_root
from resflow.workflow.scratch import temporary_folder
from resflow.workflow.sources import PACKAGE
from resflow.workflow.stored_points import UnverifiableError

if TYPE_CHECKING:
    from resflow.workflow.records import Run

__all__ = ["SourceTree", "SourceTrees"]

_LITERAL = re.compile(r"""(["'])([^"'\n\\]{1,200})\1""")

_REDIRECTING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
                "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE")  # fmt: skip
"""Variables that would have git work on another repository, as those of a hook that this is called from."""


class SourceTree(NamedTuple):
    """The source of a run.

    Attributes:
        root: The project's folder in it.
        told: What it is, in words: its commit, and what was added to that.
        variables: What is otherwise in the environment when it is executed, so that modules are imported from there.
    """

    root: Path
    told: str
    variables: dict[str, str | None]


class SourceTrees:
    """Makes source trees, each once; they are gone when the stack is left.

    Args:
        stack: What they are removed with.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._made: dict[tuple[str, bytes], Path] = {}

    def of(self, run: Run, notebook: Any) -> SourceTree:
        """The source that a run was executed from, and beside it the files that it names and git does not keep.

        Args:
            run: The run.
            notebook: Its notebook, with its parameters.

        Raises:
            UnverifiableError: If it recorded no commit, the commit is not in the project's repository, what was
                uncommitted was not kept whole, or that does not apply.
        """
        root, tags, kept = project_root(), run.stored.data.tags, kept_environment(run)
        if not (commit := tags.get(names.COMMIT, "")):
            raise UnverifiableError("the run recorded no commit: it ran in no git repository, or in one without any")
        changes = _uncommitted(run, tags, bool(kept))
        top = Path(_git(root, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
        if (commit, changes) not in self._made:
            folder = self._stack.enter_context(temporary_folder()) / "source"
            _check_out(top, commit, changes, folder)
            self._made[commit, changes] = folder
        tree = self._made[commit, changes]
        place = tree / root.relative_to(top)
        if not place.is_dir():
            raise UnverifiableError(f"the commit {commit[:12]} has no folder {root.relative_to(top)}")
        if project_root(place) != place:
            (place / "mlruns").mkdir()  # by which it is known as the project's
        brought = _bring(_named(run, notebook, kept, root), top, tree)
        told = [commit[:12], *(["what was uncommitted"] if changes else [])]
        told += [f"{listed(brought)} as it is now, which git does not keep"] if brought else []
        return SourceTree(place, ", with ".join(filter(None, [told[0], " and ".join(told[1:])])), _modules(top, tree))


def _uncommitted(run: Run, tags: dict[str, str], kept: bool) -> bytes:
    """By what the source differed from its commit."""
    if CHANGES in run.files(ENVIRONMENT):
        changes = run.read_bytes(CHANGES)
        if is_cut_off(changes):
            raise UnverifiableError(f"what was uncommitted was too much to keep: {CHANGES} is cut off")
        return changes
    if tags.get(names.GIT_DIRTY) == "true" and not kept:
        raise UnverifiableError("the run kept nothing of what was uncommitted when it ran")
    return b""


def _check_out(top: Path, commit: str, changes: bytes, folder: Path) -> None:
    """Make a repository with a commit checked out and with changes, which borrows the objects of that at `top`."""
    try:
        _git(top, "cat-file", "-e", f"{commit}^{{commit}}")
    except UnverifiableError:
        raise UnverifiableError(f"its commit {commit[:12]} is not in the repository {top}: fetch it first") from None
    kind = _git(top, "rev-parse", "--show-object-format").decode().strip()
    objects = top / os.fsdecode(_git(top, "rev-parse", "--git-path", "objects")).rstrip("\n")
    folder.mkdir()
    _git(folder, "init", "--quiet", "--template=", f"--object-format={kind}")
    (folder / ".git" / "objects" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "objects" / "info" / "alternates").write_bytes(os.fsencode(objects.resolve()) + b"\n")
    _git(folder, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit)
    if changes:
        try:
            _git(folder, "apply", "--index", "--whitespace=nowarn", "-", given=changes)
        except UnverifiableError as error:
            raise UnverifiableError(f"{CHANGES} does not apply to its commit {commit[:12]}: {error}") from None


def _named(run: Run, notebook: Any, kept: dict[str, Any], root: Path) -> list[str]:
    """The files that a run names: by parameters, as its data, in its code's texts, and as modules that it loaded."""
    texts = [value for value in effective_values(notebook).values() if isinstance(value, str)]
    texts += [each.dataset.name for each in (run.stored.inputs.dataset_inputs if run.stored.inputs else ())]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts += [found[2] for found in _LITERAL.finditer(cell.source)]
    folder = root / kept.get("folder", "")
    return [
        *(os.path.join(folder, text) for text in texts),
        *(os.path.join(root, name) for name in kept.get("code", ())),
    ]


def _bring(files: list[str], top: Path, tree: Path) -> list[str]:
    """Copy those of the files that are within the repository and that git does not keep to the same place in a tree."""
    found = {}
    for file in dict.fromkeys(map(os.path.normpath, files)):
        if Path(file).is_relative_to(top) and os.path.isfile(file):
            name = os.path.relpath(file, top)
            if not os.path.lexists(tree / name):
                found[name] = file
    if not found:
        return []
    tracked = os.fsdecode(_git(top, "--literal-pathspecs", "ls-files", "-z", "--", *found)).split("\0")
    brought = [name for name in found if name not in tracked]
    for name in brought:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found[name], tree / name)
    return brought


def _modules(top: Path, tree: Path) -> dict[str, str | None]:
    """By which kernels look for modules in the tree, first of all: where this process does in the repository."""
    places = [Path(path).resolve() for path in (str(PACKAGE.parent), *filter(None, sys.path))]
    within = [tree / path.relative_to(top) for path in places if path.is_relative_to(top)]
    former = [path for path in (os.environ.get("PYTHONPATH", ""),) if path]
    found = dict.fromkeys([*(str(path) for path in within if path.is_dir()), *former])
    return dict.fromkeys(_REDIRECTING) | ({"PYTHONPATH": os.pathsep.join(found)} if found else {})


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """What git says.

    Raises:
        UnverifiableError: If it fails, with what it says of that, or is not there.
    """
    if not shutil.which("git"):
        raise UnverifiableError("git is not installed here, or not on the PATH")
    command = ["git", "--no-optional-locks", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _REDIRECTING} | {"LC_ALL": "C"}
    done = subprocess.run(command, input=given, capture_output=True, check=False, env=environment)
    if done.returncode:
        raise UnverifiableError(first_line(done.stderr.decode(errors="replace")) or f"git ended with {done.returncode}")
    return done.stdout
