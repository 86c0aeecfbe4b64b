"""How the programs end: a line for a mistake, a status, and no traceback."""

import logging

import pytest

from evaluation.command_line import exit_status, make_parser


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_work_says_the_status(returned, status):
    assert exit_status(lambda: returned) == status


@pytest.mark.parametrize(
    "error", [ValueError("ratio must be"), FileNotFoundError("no folder x"), ImportError("pip")]
)
def test_a_mistake_is_one_line_and_status_2(error, caplog):
    assert exit_status(raising(error)) == 2
    assert [record.getMessage() for record in caplog.records] == [str(error)]
    assert caplog.records[0].levelno == logging.ERROR


def test_only_named_errors_are_mistakes(caplog):
    with pytest.raises(RuntimeError, match="a bug"):
        exit_status(raising(RuntimeError("a bug")))
    assert exit_status(raising(RuntimeError("known")), also=(RuntimeError,)) == 2


def test_an_interruption_says_how_to_go_on(caplog):
    assert exit_status(raising(KeyboardInterrupt())) == 130
    assert "run the same command again" in caplog.text


def test_help_keeps_the_lines_of_the_description():
    text = make_parser("evaluation.x", "First line.\n\n    an indented example").format_help()
    assert "python -m evaluation.x" in text
    assert "\n    an indented example" in text
