"""Which arguments of a solver are which arguments of its conditions.

A solver `solver(init, *args, **kwargs)` and its conditions `F(x, *args, **kwargs)` share what comes after init and x.
An argument goes to the one of the same name, by keyword where either has it by keyword only, and otherwise to the one
at the same place. F gets the solver's defaults, too: were it left to its own, it could be the condition of another
problem, and nothing would show it.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from ._program import name_of

Parameters = list[inspect.Parameter]
EMPTY = inspect.Parameter.empty
BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
STAR, KEYWORD_ONLY = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY
STAR_STAR = inspect.Parameter.VAR_KEYWORD
# Names by which a starting point is known.
STARTS = ("init", "x0", "x_init", "init_x", "init_params", "initial", "initial_guess", "guess", "start")


class Call(NamedTuple):
    """One call of a solver: its starting point, and the arguments of F after x."""

    init: Any
    args: tuple
    kwargs: dict[str, Any]


class Arguments:
    """How a call of the solver becomes one of F; made once, at decoration."""

    def __init__(self, solver: Callable, F: Callable, has_init: bool):
        """Compare the signatures; raise TypeError where they contradict each other."""
        self.solver, self.F, self.has_init = solver, F, has_init
        signature, of_F = parameters(solver), parameters(F)
        # A function in the body of a class: self is bound before the call.
        self.takes_self = signature is not None and [p.name for p in signature[:1]] in (["self"], ["cls"])
        self.signature = None if signature is None else inspect.Signature(signature[self.takes_self :])
        self.first: inspect.Parameter | None = None
        self.places: dict[str, str] | None = None
        self.in_F: list[str] = []
        self.kept: dict[str, Any] = {}  # defaults of F that stand, though the solver has one at their place
        if self.signature is None:
            return
        rest = list(self.signature.parameters.values())
        if has_init and rest and rest[0].kind in BY_PLACE:
            self.first, rest = rest[0], rest[1:]
        if of_F is not None:
            self._check_first(rest, of_F)
            self.places = self._matched(rest, of_F[1:] if of_F and of_F[0].kind in BY_PLACE else of_F)

    def split(self, args: tuple, kwargs: dict[str, Any]) -> Call:
        """The arguments of a call as they were given; raise TypeError where the starting point is missing."""
        if not self.has_init:
            return Call(None, args, kwargs)
        if args:
            return Call(args[0], args[1:], kwargs)
        if self.first is not None and self.first.name in kwargs:
            rest = dict(kwargs)
            return Call(rest.pop(self.first.name), (), rest)
        if self.first is not None and self.first.default is not EMPTY:
            return Call(self.first.default, args, kwargs)
        raise TypeError(
            f"The solver {name_of(self.solver)} was called without its starting point, which comes first: "
            "solver(init, *args). Pass None if it needs none, or decorate it with has_init=False."
        )

    def bind(self, args: tuple, kwargs: dict[str, Any]) -> inspect.BoundArguments | None:
        """The call by the names of the solver's arguments; None where its signature is not known or does not fit."""
        try:
            return None if self.signature is None else self.signature.bind(*args, **kwargs)
        except TypeError:
            return None

    def of_F(self, args: tuple, kwargs: dict[str, Any]) -> Call:
        """The arguments that F gets for a call of the solver, the solver's defaults among them."""
        call = self.split(args, kwargs)
        bound = None if self.places is None else self.bind(args, kwargs)
        if bound is None or self.places is None:
            return call  # where it does not fit the solver says what is wrong, or its signature is another function's
        given = set(bound.arguments)
        bound.apply_defaults()
        bound.arguments.update({name: default for name, default in self.kept.items() if name not in given})
        by_place: list = []
        by_name: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            place = self.places.get(name)
            if place == "place":
                by_place.append(value)
            elif place == "name":
                by_name[name] = value
            elif place == "star":
                by_place.extend(value[1:] if self.has_init and self.first is None else value)
            elif place == "star star":
                by_name.update(value)
        if unknown := [name for name in bound.arguments if self.places.get(name) == "nowhere" and name in given]:
            raise TypeError(
                f"The solver {name_of(self.solver)} was given {unknown}, which the condition {name_of(self.F)}"
                f"{inspect.signature(self.F)} does not take: it must take all that the solver is given after init. "
                f"A setting on which the solution does not depend can be bound before, by functools.partial."
            )
        for name in self.in_F[len(by_place) :]:
            if name not in by_name:
                break
            by_place.append(by_name.pop(name))
        return Call(call.init, tuple(by_place), by_name)

    def _matched(self, ours: Parameters, theirs: Parameters) -> dict[str, str]:
        """Where in F each argument of the solver goes: by place, by name, or nowhere."""
        kinds = {p.kind for p in theirs}
        names = {p.name for p in theirs if p.kind in (*BY_PLACE, KEYWORD_ONLY)}
        keyword_only = {p.name for p in theirs if p.kind is KEYWORD_ONLY}
        all_ours = {p.name for p in ours}
        in_order = [p for p in ours if p.kind in BY_PLACE and p.name not in keyword_only]
        in_F = [p for p in theirs if p.kind in BY_PLACE]
        self.in_F = [p.name for p in in_F]
        self._check_order([p.name for p in in_order], self.in_F)
        places = {p.name: "star" if p.kind is STAR else "star star" for p in ours if p.kind in (STAR, STAR_STAR)}
        for i, p in enumerate(in_order):
            if p.name in names:
                places[p.name] = "place"
            elif i < len(in_F):
                q = in_F[i]
                if q.name in all_ours:
                    places[p.name] = "nowhere"
                    continue
                places[p.name] = "place"
                if p.default is not EMPTY and q.default is not EMPTY:
                    self._keep(p, q)
            else:
                places[p.name] = "place" if STAR in kinds else "name" if STAR_STAR in kinds else "nowhere"
        for p in ours:
            if p.name not in places:
                places[p.name] = "name" if p.name in names or STAR_STAR in kinds else "nowhere"
        return places

    def _keep(self, p: inspect.Parameter, q: inspect.Parameter) -> None:
        """Two defaults under two names: None in F says that there is no such argument."""
        if q.default is not None:
            raise TypeError(
                f"The solver {name_of(self.solver)} has the argument {p.name}={p.default!r} where the condition "
                f"{name_of(self.F)} has {q.name}={q.default!r}. If they are the same, give them the same name; if not, "
                "let one of them be keyword-only."
            )
        self.kept[p.name] = None

    def _check_order(self, ours: list[str], theirs: list[str]) -> None:
        moved = [name for i, name in enumerate(ours) if name in theirs and theirs.index(name) != i]
        if moved:
            raise TypeError(
                f"The solver {name_of(self.solver)} and the condition {name_of(self.F)} must take the same arguments "
                f"in the same order after {'init' if self.has_init else 'nothing'} and x: the solver has "
                f"{tuple(ours)}, the condition {tuple(theirs)}; {', '.join(map(repr, moved))} stand(s) elsewhere. "
                "Reorder one of them."
            )

    def _check_first(self, rest: Parameters, of_F: Parameters) -> None:
        """Raise TypeError where names tell that init or x does not come first."""
        solver, condition = name_of(self.solver), name_of(self.F)
        x = of_F[0].name if of_F and of_F[0].kind in BY_PLACE else None
        ours, theirs = ([p.name for p in some if p.kind not in (STAR, STAR_STAR)] for some in (rest, of_F[1:]))
        first = None if self.first is None else self.first.name
        if x == "self":
            raise TypeError(f"The condition {condition} takes self, which it is not given: make it F(x, *args).")
        if x == "init" and first != "init":
            raise TypeError(
                f"The condition {condition} begins with 'init', as a solver does, and is called F(x, *args). Are the "
                f"two exchanged? @custom_root(F) stands above the solver."
            )
        if x != "x" and x in ours:
            raise TypeError(
                f"The condition {condition} is called as F(x, *args), the unknown first, but begins with {x!r}, which "
                f"the solver {solver} takes as an argument. Reorder the condition's arguments."
            )
        start = next((name for name in ours if name in STARTS and name not in theirs), None)
        if first is not None and (first in theirs or (start is not None and first not in STARTS)):
            found = f"and it is an argument of the condition {condition}" if start is None else f"and {start!r} later"
            raise TypeError(
                f"The solver {solver} is called as solver(init, *args), its starting point first, but begins with "
                f"{first!r}, {found}. Put init first, or decorate a solver that has none with has_init=False."
            )


def parameters(function: Callable) -> Parameters | None:
    """The parameters of a callable; None where they cannot be known."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
