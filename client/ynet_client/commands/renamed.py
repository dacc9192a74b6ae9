"""Refuse the names that commands had before they were put into groups, and say the new one."""

import click
from typer.core import TyperGroup

from ynet.errors import UserError

RENAMED = {
    "accept": "plan accept",
    "consult-answer": "consult answer",
    "consults": "consult list",
    "decline": "plan decline",
    "plans": "plan list",
}
"""New names by old ones, each after the program's name."""


class Commands(TyperGroup):
    """The commands of the program: an old name is refused with the new one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raise UserError for an old name."""
        if args and args[0] in RENAMED and not ctx.resilient_parsing:  # which is completion
            raise refused(args[0], RENAMED[args[0]])
        return super().resolve_command(ctx, args)


class ConsultCommands(TyperGroup):
    """The commands of `consult`, which once took the token of a hit itself."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raise UserError where no command of the group is named."""
        if args and args[0] not in self.commands and not ctx.resilient_parsing:
            raise refused("consult TOKEN", "consult send TOKEN")
        return super().resolve_command(ctx, args)


def refused(old: str, new: str) -> UserError:
    """The error for an old name."""
    return UserError(f"there is no command ynet-client {old}", "it has a new name", f"ynet-client {new}")
