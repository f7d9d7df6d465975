"""Options of mpirun that go through SageMaker's training toolkit unharmed."""

from __future__ import annotations

from itertools import zip_longest

from frcnn.errors import UserError

# The toolkit (sagemaker-training 5.1.4, mpi.py) sets these itself; Open MPI ends a job in which one stands twice, even with the same value.
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
    """Refuse what the toolkit or Open MPI would stumble over, minutes into a paid job.

    The toolkit cuts the text at white space, without heeding quotes, and gives the words to an argparse parser that knows
    ``--NCCL_DEBUG`` and, as every such parser, ``-h`` and ``--help`` with their abbreviations.

    Raises:
        UserError: names the word and says what to write in its place.
    """
    words = text.split()
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        name = word.partition("=")[0]
        if "'" in word or '"' in word:
            raise UserError(
                f"{_WHERE}: {word!r} has a quote, which the toolkit takes as part of the word; write it without quotes"
            )
        if len(name) > 2 and "--help".startswith(name):
            raise UserError(
                f"{_WHERE}: {word!r} makes the toolkit print its help and end the job as if it had succeeded; leave it out"
            )
        if name.startswith("-h"):
            raise UserError(
                f"{_WHERE}: the toolkit reads {word!r} as a call for help; the hosts are its own business, leave it out"
            )
        if len(name) > 2 and "--NCCL_DEBUG".startswith(name) and name != "--NCCL_DEBUG":
            raise UserError(
                f"{_WHERE}: the toolkit reads {word!r} as --NCCL_DEBUG; write --NCCL_DEBUG in full, or leave it out"
            )
        if name == "--NCCL_DEBUG" and not (after or "=" in word):
            raise UserError(f"{_WHERE}: --NCCL_DEBUG has no value; write --NCCL_DEBUG WARN or another of NCCL's levels")
        if word.lstrip("-") in ("mca", "gmca") and word.startswith("-") and after in TOOLKIT_PARAMETERS:
            raise UserError(
                f"{_WHERE}: '{word} {after}' is set by the toolkit already, and Open MPI refuses a parameter that stands twice; "
                f"leave it out, or write -x OMPI_MCA_{after}=VALUE"
            )
