"""What may be shown of a store's address: everything but credentials."""

import pytest

from resflow.workflow.addresses import without_credentials, without_secrets


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@db:5432/runs", "postgresql://db:5432/runs"),
        ("mysql+pymysql://me:p%40ss@db/runs", "mysql+pymysql://db/runs"),
        ("http://user:secret@host", "http://host"),
        ("https://token@host/path", "https://host/path"),
        ("http://user:se@cret@host:1/", "http://host:1/"),
        ("http://user:se/cret@host:1/x", "http://host:1/x"),
        ("http://user:se?cret@host/x?a=1", "http://host/x?a=1"),
        ("http://user:se#cret@host/x", "http://host/x"),
        ("http://user:s?b=c&d@host:5/x", "http://host:5/x"),
        ("postgresql://db/runs?user=me&password=secret&sslmode=require", "postgresql://db/runs?sslmode=require"),
        ("mssql+pyodbc:///?odbc_connect=SERVER%3Dx;PWD=secret", "mssql+pyodbc:///"),
        ("no route to http://user:secret@host/x, nor 'http://a:secret@b'", "no route to http://host/x, nor 'http://b'"),
    ],
)
def test_users_passwords_and_secret_options_are_left_out_of_addresses(address, shown):
    assert without_credentials(address) == shown


@pytest.mark.parametrize(
    "address",
    ["http://host:5000", "http://[::1]:5000/x", "http://host/me@x", "sqlite:////home/me@work/a b.db", "file:///a@b/c"],
)
def test_addresses_without_credentials_are_shown_as_they_are(address):
    assert without_credentials(address) == address


def test_own_password_is_shown_nowhere_in_a_text(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s%C3%A9same%2Fopen@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-1234")
    text = without_secrets("Basic sésame/open or s%C3%A9same%2Fopen, token-1234 at http://me:s%C3%A9same%2Fopen@host")
    assert text == "Basic *** or ***, *** at http://host"
