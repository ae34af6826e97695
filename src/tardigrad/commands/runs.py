"""`tardigrad status`, `workers` and `export`: what is asked of one run, by its directory."""

from __future__ import annotations

import tyro

from tardigrad.options import ExportOptions, StatusOptions, WorkersOptions


def status(words: list[str]) -> int:
    """``tardigrad status``; the exit status."""
    options = tyro.cli(StatusOptions, args=words, prog="tardigrad status")
    from tardigrad.status import show_status

    show_status(options.run, once=options.once)
    return 0


def workers(words: list[str]) -> int:
    """``tardigrad workers``; the exit status."""
    options = tyro.cli(WorkersOptions, args=words, prog="tardigrad workers")
    from tardigrad.resizing import ask_for_workers, print_workers, require_live

    if options.set is None:
        print_workers(require_live(options.run))
    else:
        print_workers(ask_for_workers(options.run, options.set), wished=options.set)
    return 0


def export(words: list[str]) -> int:
    """``tardigrad export``; the exit status."""
    options = tyro.cli(ExportOptions, args=words, prog="tardigrad export")
    from tardigrad.exporting import export as write
    from tardigrad.exporting import print_export

    path = write(options.run, output=options.output, checkpoint=options.checkpoint, data_dir=options.data_dir)
    print_export(path)
    return 0
