"""A command that must be refused."""

from __future__ import annotations

from experiments.__main__ import main


def refusal(capsys, *words):
    """Run a command that must be refused; return its one sentence."""
    try:
        status = main([str(word) for word in words])
    except SystemExit as ended:
        status = ended.code
    told = capsys.readouterr()
    assert status == 2 and not told.out and told.err.count("\n") == 1, told
    return told.err
