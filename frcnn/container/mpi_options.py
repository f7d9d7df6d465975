"""Check of the mpirun options that are passed through SageMaker's training toolkit."""

from __future__ import annotations

from itertools import zip_longest

from frcnn.errors import UserError

# Set by the toolkit (sagemaker-training 5.1.4, mpi.py); Open MPI aborts if one is repeated, even with the same value.
TOOLKIT_PARAMETERS = (
    "btl_tcp_if_include",
    "oob_tcp_if_include",
    "plm_rsh_no_tree_spawn",
    "pml",
    "btl",
    "orte_abort_on_non_zero_status",
    "btl_vader_single_copy_mechanism",
)
_WHERE = "mpi_options"


def check_mpi_options(text: str) -> None:
    """Reject options that the toolkit or Open MPI would fail on minutes into a paid job.

    The toolkit splits the string at whitespace, ignoring quotes, and passes the words to an argparse parser that knows
    ``--NCCL_DEBUG`` and, like every such parser, ``-h`` and ``--help`` with their abbreviations.

    Raises:
        UserError: names the option and what to write instead.
    """
    words = text.split()
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        name = word.partition("=")[0]
        if "'" in word or '"' in word:
            raise UserError(
                f"{_WHERE}: {word!r} contains a quote, which the toolkit does not interpret; write it without quotes"
            )
        if len(name) > 2 and "--help".startswith(name):
            raise UserError(
                f"{_WHERE}: {word!r} makes the toolkit print its help and end the job as if it had succeeded; remove it"
            )
        if name.startswith("-h"):
            raise UserError(
                f"{_WHERE}: the toolkit parses {word!r} as -h (help); it sets the hosts itself, remove the option"
            )
        if len(name) > 2 and "--NCCL_DEBUG".startswith(name) and name != "--NCCL_DEBUG":
            raise UserError(
                f"{_WHERE}: the toolkit parses {word!r} as --NCCL_DEBUG; write --NCCL_DEBUG in full, or remove it"
            )
        if name == "--NCCL_DEBUG" and not (after or "=" in word):
            raise UserError(f"{_WHERE}: --NCCL_DEBUG has no value; write --NCCL_DEBUG WARN or another of NCCL's levels")
        if word.lstrip("-") in ("mca", "gmca") and word.startswith("-") and after in TOOLKIT_PARAMETERS:
            raise UserError(
                f"{_WHERE}: '{word} {after}' is already set by the toolkit, and Open MPI rejects a repeated parameter; "
                f"remove it, or write -x OMPI_MCA_{after}=VALUE"
            )
