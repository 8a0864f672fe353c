"""What the generated API pages show: every public name is documented, arguments included."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import monai_idm


def public() -> Iterator[tuple[str, Any]]:
    for name in monai_idm.__all__:
        member = getattr(monai_idm, name)
        if inspect.ismodule(member):
            yield from ((f"{name}.{own}", getattr(member, own)) for own in member.__all__)
        else:
            yield name, member


CALLABLE = [(name, member) for name, member in public() if inspect.isfunction(member) or inspect.isclass(member)]
ELSEWHERE = r"[Aa]rguments[^.]*(:func:|MONAI)"  # "arguments as in :func:`psnr`", which a page links to


@pytest.mark.parametrize(("name", "member"), CALLABLE)
def test_every_argument_of_a_public_name_is_described(name, member):
    text = inspect.getdoc(member) or ""
    assert text.strip(), f"{name} has no docstring"
    if inspect.isclass(member):  # arguments that a base class describes need no second description
        bases = [base for base in member.__mro__[1:] if base.__module__.startswith("monai_idm")]
        text = "\n".join([text, *(inspect.getdoc(base) or "" for base in bases)])
    own = inspect.isfunction(member) or not issubclass(member, BaseException)
    arguments = inspect.signature(member).parameters.values() if own else []
    named = [one.name for one in arguments if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    missing = [one for one in named if not re.search(rf"^ +([\w, ]+, )?{one}(, [\w, ]+)?:|`{one}`", text, re.MULTILINE)]
    assert not missing or re.search(ELSEWHERE, text), f"{name} does not describe {missing}"


def test_a_description_says_what_an_argument_is():
    texts = [text for _, member in CALLABLE for text in _texts(member)]
    assert not [line for text in texts for line in re.findall(r"^ +\w+: Of .*", text, flags=re.MULTILINE)]


def _texts(member: Any) -> Iterator[str]:
    yield inspect.getdoc(member) or ""
    if inspect.isclass(member) and member.__module__.startswith("monai_idm"):
        yield from (inspect.getdoc(method) or "" for method in vars(member).values() if inspect.isfunction(method))
