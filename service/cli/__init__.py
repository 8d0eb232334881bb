"""`trainyard`, the one command. Each command is in a module of this package, imported only when it is asked for, so that `--help` answers at once.

Exit codes:

    0    done; for submit and watch: the job succeeded
    1    the job failed or was cancelled, or a file of this machine is at fault
    2    the command or the request is wrong: usage, an invalid job, an unknown id, a missing token
    3    the service cannot be reached, or cannot do it now
    130  Ctrl-C: detached; the job goes on
"""

from __future__ import annotations

import importlib
from difflib import get_close_matches

import typer
import typer.main
from typer.core import TyperGroup

COMMANDS = {
    "quickstart": ("quickstart", "Start a service, train the digits sample through it, and show how to go on."),
    "serve": ("serve", "Run the service: the API, the workers and what looks after them."),
    "worker": ("serve", "Run workers only, for a store that a `serve` looks after."),
    "submit": ("jobs", "Queue a job, follow it, and exit 0 only if it succeeds."),
    "watch": ("jobs", "Follow a job to its end."),
    "jobs": ("jobs", "List jobs, newest first."),
    "cancel": ("jobs", "Stop a job within a batch, or take it out of the queue."),
    "pause": ("lifecycle", "Let a running job write a checkpoint and give up its worker."),
    "resume": ("lifecycle", "Let a paused job go on."),
    "adjust": ("lifecycle", "Change a job: learning_rate=0.001 epochs=20 'freeze=layers.0.*' name=better."),
    "fork": ("lineage", "Start a new job from a job's checkpoint: fork ID --more-epochs 10 optimiser.learning_rate=0.001"),
    "predict": ("results", "What a trained model makes of a file or a dataset."),
    "download": ("results", "Save a trained model."),
    "publish": ("lineage", "Give a model a name: it answers predictions from now on."),
    "unpublish": ("lineage", "Remove the name of a model; its job stays."),
    "models": ("lineage", "List models by name, or the history of one name."),
    "export": ("export", "Hand a run to another tool: export mlflow ID --to URI, export tensorboard ID DIR."),
    "webhooks": ("webhooks", "What webhooks told of a job, the secret that signs them, receivers that fail."),
    "upload": ("data", "Send data; jobs then name it by its id."),
    "get": ("get", "Answer one request in this process, without a server."),
    "show": ("show", "What a job becomes: its graph, its plan, or the source of its kernels."),
    "warm": ("warm", "Compile kernels now, so that first jobs start at once."),
    "settings": ("settings", "Every setting: its variable, its value, what it is for."),
    "backup": ("backup", "Everything that a home keeps in one file, also while the service runs."),
    "restore": ("backup", "A new home from a backup."),
    "token": ("token", "Make, list, revoke or try tokens."),
    "audit": ("token", "Who changed what, newest first."),
}


class Commands(TyperGroup):
    """The commands, loaded one by one."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str):
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"service.cli.{COMMANDS[cmd_name][0]}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(cmd_name, help=COMMANDS[cmd_name][1])(getattr(module, cmd_name))
        return typer.main.get_command(app)

    def resolve_command(self, ctx: typer.Context, args: list[str]):
        if args[0] not in COMMANDS and not args[0].startswith("-") and (near := get_close_matches(args[0], COMMANDS, 1)):
            ctx.fail(f"No such command '{args[0]}'. Did you mean {near[0]}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: typer.Context, formatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


app = typer.Typer(cls=Commands, add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Trainyard, a training service over HTTP. Settings are environment variables: see `trainyard settings`.",
                  epilog="Exit codes: 0 done or succeeded; 1 the job did not succeed; 2 wrong usage or request; 3 no service; 130 detached.")


@app.callback()
def trainyard() -> None:
    """The root of all commands."""


def main() -> None:
    app(prog_name="trainyard")
