#!/usr/bin/env bash
# detect-secrets' plugins answer `analyze_string` with what their patterns capture, not with what they match. Expected: the secret itself, as
# `scan_line` promises in its name. Seen: for a GitHub token the three letters of its prefix, so whoever masks what was found leaves the token
# in the text; a private key is its header line alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q detect-secrets==1.5.0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector

print("detect-secrets", version("detect-secrets"))
token = "ghp_" + "a1B2c3D4e5F6" * 3  # of the form, and nobody's
found = list(GitHubTokenDetector().analyze_string(f"my token is {token}"))
print("found in a sentence with a token of 40 characters:", found)
assert found == ["ghp"], found
[pattern] = GitHubTokenDetector.denylist
assert pattern.search(f"my token is {token}").group(0) == token
key = "-----BEGIN RSA PRIVATE KEY-----\nbm90IGEga2V5\n-----END RSA PRIVATE KEY-----"
lines = list(PrivateKeyDetector().analyze_string(key))
print("found in a private key of three lines:", lines)
assert lines and not any("bm90" in one for one in lines), lines
print("as found: what is captured, not what is matched")
PY
