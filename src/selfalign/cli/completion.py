"""`selfalign completion bash|zsh`: a script that completes commands, recipes and options in a shell.

The words are gathered from the commands' own help when the script is written, so that completing takes no Python.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import fields, is_dataclass

from selfalign import recipes
from selfalign.cli.load import load_recipe
from selfalign.cli.main import COMMANDS
from selfalign.cli.main import main as command
from selfalign.cli.options import new_parser, parse
from selfalign.cli.recipe_help import part_help
from selfalign.cli.recipe_options import default_recipe
from selfalign.errors import UserError
from selfalign.recipe import Recipe

ON_RECIPES = ("run", "check", "preview", "study")
"""Commands whose second word is a recipe, and whose options are that recipe's."""
SHELLS = ("bash", "zsh")
SCRIPT = """# Completion of selfalign for {shell}: written by `selfalign completion {shell}`; write it anew after an update.
{head}_selfalign() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" recipe="${{COMP_WORDS[2]}}" words=""
  if [ "$COMP_CWORD" = 1 ]; then
    words="{commands}"
  elif [[ "$cur" != -* ]]; then
    if [ "$COMP_CWORD" = 2 ]; then case "$command" in {on_recipes}) words="{recipes}" ;; esac; fi
  else
    case "$command" in
{of_commands}
    esac
    case "$command" in {on_recipes})
      case "$recipe" in
{of_recipes}
      esac
    esac
  fi
  COMPREPLY=( $(compgen -W "$words" -- "$cur") )
}}
complete -o default -o bashdefault -F _selfalign selfalign
"""


def main(arguments: Sequence[str]) -> int:
    what = "Writes a script that completes commands, recipes and options"
    called = 'eval "$(selfalign completion bash)", or a file of it where your shell looks for such'
    parser = new_parser("completion", f"{what}: {called}.")
    parser.add_argument("shell", type=str, help=" or ".join(SHELLS))
    shell = parse(parser, arguments).shell
    if shell not in SHELLS:
        raise UserError(f"completion for {shell}: there is one for {' and '.join(SHELLS)}")
    sys.stdout.write(script(shell))
    return 0


def script(shell: str) -> str:
    """The script for a shell; in zsh it goes through that shell's own layer for completions written for bash."""
    first = recipes.__all__[0]
    shared = _options("run", first, "--help-all")
    commands = {each: _options(each, "--help") for each in COMMANDS if each not in ON_RECIPES}
    commands |= {each: [one for one in _options(each, first, "--help-all") if one not in shared] for each in ON_RECIPES}
    of_recipes = {each: _of_recipe(each) for each in recipes.__all__}
    of_recipes["*"] = of_recipes[first]  # one of your own: the most likely
    return SCRIPT.format(
        shell=shell,
        head="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        commands=" ".join(COMMANDS),
        on_recipes="|".join(ON_RECIPES),
        recipes=" ".join(recipes.__all__),
        of_commands=_cases(commands),
        of_recipes=_cases(of_recipes),
    )


def _cases(words: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(f'        {case}) words="$words {" ".join(options)}" ;;' for case, options in words.items() if options)


def _of_recipe(name: str) -> list[str]:
    """The options of a recipe and those of its parts."""
    words, make, more = _options("run", name, "--help-all"), load_recipe(name), list[str]()
    parts = [word[2:].removesuffix(".help") for word in words if word.endswith(".help")]
    for part in (*parts, *(f"{outer}.{option}" for outer in parts for option in _inner(default_recipe(make), outer))):
        with suppress(UserError):  # an evaluator's: its options stand in the list itself
            more += _named(part_help(make, part, None))
    return [*dict.fromkeys([*words, *more])]


def _inner(recipe: Recipe, part: str) -> list[str]:
    """The options of a part that are parts themselves, such as a trainer's loss."""
    chosen = getattr(recipe, part, None)
    options = fields(chosen) if is_dataclass(chosen) else ()
    return [option.name for option in options if is_dataclass(getattr(chosen, option.name))]


def _options(*arguments: str) -> list[str]:
    """The options that a command's help names."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        command(arguments)
    return _named(said.getvalue())


def _named(text: str) -> list[str]:
    return [*dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][\w.]*\w", text))]
