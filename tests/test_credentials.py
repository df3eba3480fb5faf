"""Keys and passwords, as people and programs write them; and what only sounds like one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memos_core import MemOS, Sensitivity
from memos_core.sensitivity import Detector, checked_forms, redacted

JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
FOUND = {
    "Password: swordfish": "Password: [password]",
    "the password's hunter2": "the password's [password]",
    "the new password will be Summer2026.": "the new password will be [password].",
    "set the admin password to 'open sesame'": "set the admin password to '[password]'",
    "the password we use is Winter2026!": "the password we use is [password]",
    "I use Summer2026 as my password everywhere": "I use [password] as my password everywhere",
    "export DB_PASSWORD='p@ss w0rd'": "export DB_PASSWORD='[password]'",
    '{"password": "hunter2", "user": "bob"}': '{"password": "[password]", "user": "bob"}',
    "user bob, pass: qwerty12": "user bob, pass: [password]",
    "my passwords are hunter2 and": "my passwords are [password] and",
    "the door code is 4455": "the door code is [password]",
    "login: bob / hunter2": "login: bob / [password]",
    "token: glpat-abcdefghij0123456789": "token: [api_key]",
    "slack: xoxb-123456789012-123456789012-abcdefABCDEF": "slack: [api_key]",
    f"Authorization: Bearer {JWT}": "Authorization: Bearer [api_key]",
    "AWS secret: wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY": "AWS secret: [api_key]",
    "the API key: 123e4567-e89b-12d3-a456-426614174000": "the API key: [api_key]",
    "my Wi-Fi key is 7f6e5d4c3b2a": "my Wi-Fi key is [api_key]",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\ncut": "[private_key]",
}
NOT = [
    "my password policy is strict", "the password is expiring in 3 days", "my password was stolen last year", "what is my password?",
    "The password is: required", "the password is stored in 1Password", "passwords are hashed", "password strength is 80%",
    "pass: 30 of 40 points", "PIN is 4 digits", "pin 5 is ground", "login is at 9 am", "our login is https://example.com/login",
    "keys to the house", "key takeaways: 3 points", "access token lifetime is 3600s", "token ring is a network", "the secret: be patient",
    "the api key page is broken", "secret santa is on 2026-12-24",
]  # fmt: skip


@pytest.fixture(scope="module")
def detect() -> Detector:
    for name in ("phonenumbers", "detect_secrets"):
        pytest.importorskip(name, reason="the extra is not installed")
    return checked_forms()


@pytest.mark.parametrize("text", FOUND)
def test_a_credential_is_found_whole_and_the_words_around_it_stay(text: str, detect: Detector) -> None:
    assert redacted(text, detect(text)) == FOUND[text]


@pytest.mark.parametrize("text", NOT)
def test_what_only_speaks_of_credentials_is_left_alone(text: str, detect: Detector) -> None:
    assert {f.kind for f in detect(text)} & {"password", "api_key", "private_key"} == set()


def test_in_a_memory_it_is_tagged_and_left_out(detect: Detector, open_store: Callable[..., MemOS]) -> None:
    memory = open_store(sensitivity=Sensitivity(detect))
    login = {"password": "hunter2", "note": "hunter2", "logins": [{"api_key": "abcd1234efgh5678", "user": "bob"}]}
    [cube] = memory.add("my password is hunter2, and the key AKIAIOSFODNN7EXAMPLE", attributes=login)
    assert cube.sensitivity == ("api_key", "password")
    memory.share(cube.id, readers=["bob"])
    assert memory.get(cube.id, actor="bob").text == "my password is [password], and the key [api_key]"
    assert memory.get(cube.id, actor="bob").attributes == {
        "password": "[password]", "note": "hunter2", "logins": [{"api_key": "[api_key]", "user": "bob"}],
    }  # fmt: skip
