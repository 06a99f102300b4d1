"""Roles: one table, each role may all that the one before may, and a stranger nothing."""

from __future__ import annotations

import itertools

import pytest

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.roles import LEAST_ROLE, Permission, Role, known_role, may

TABLE = {
    None: set[Permission](),
    Role.CALLER: {Permission.CALL_MODELS},
    Role.VIEWER: {Permission.CALL_MODELS, Permission.READ_FIGURES},
    Role.OPERATOR: {Permission.CALL_MODELS, Permission.READ_FIGURES, Permission.READ_ADDRESSES},
    Role.ADMIN: set(Permission),
}


@pytest.mark.parametrize(("role", "permission"), list(itertools.product(TABLE, Permission)))
def test_a_role_has_these_permissions_and_no_other(role: Role | None, permission: Permission) -> None:
    assert may(role, permission) is (permission in TABLE[role])


def test_every_permission_has_its_least_role() -> None:
    assert LEAST_ROLE.keys() == set(Permission)


def test_a_key_is_a_caller_unless_it_was_given_more() -> None:
    assert ApiKey("id", "acme").role is Role.CALLER


@pytest.mark.parametrize("text", ["", "root", "Admin", "admin "])
def test_a_role_of_another_program_counts_as_the_least(text: str) -> None:
    assert known_role(text) is Role.CALLER
