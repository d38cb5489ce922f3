"""A batch on a store whose URL has a login and a token: nothing that it leaves or says has them."""

import contextlib
import logging

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from destseg.batch_inspection import run
from destseg.batch_inspection.inspector import Inspector
from destseg.batch_inspection.storage import Storage
from destseg.cli.main import main

SECRETS = ("KEYID", "S%2FCRET", "S/CRET", "TOKENS")
LOGIN = "KEYID:S%2FCRET@"
OPTIONS = "?token=TOKENS&region=eu"


class Vault(MemoryFileSystem):
    """fsspec's memory behind a login; some files cannot be read, and the error says too much."""

    protocol = "vault"

    @classmethod
    def _strip_protocol(cls, path):
        if "://" not in path:
            return super()._strip_protocol(path)
        login, _, place = path.partition("://")[2].partition("@")
        assert (f"{login}@", place.partition("?")[2]) == (LOGIN, OPTIONS[1:])
        return "/" + place.partition("?")[0].rstrip("/")

    def _open(self, path, mode="rb", **named):
        reads = mode == "rb"
        if reads and path.endswith("/closed.png"):
            raise OSError(
                13000, f"403 of https://KEYID:S%2FCRET@host/x?sig=TOKENS for S/CRET {path}"
            )
        if reads and path.endswith("/fault.png"):
            raise RuntimeError(f"no signature of KEYID and S/CRET: vault://{LOGIN}plant{OPTIONS}")
        if not reads and "/full/part" in path:
            raise OSError(28, f"no room with TOKENS at vault://{LOGIN}plant{OPTIONS}")
        return super()._open(path, mode=mode, **named)


@pytest.fixture
def vault(monkeypatch, write_image, tmp_path):
    """Returns the URL of a folder of the vault, with what must not be told."""
    fsspec.register_implementation("vault", Vault, clobber=True)
    monkeypatch.setattr(Vault, "store", {})
    monkeypatch.setattr(Vault, "pseudo_dirs", [""])
    # Other tests' waits are for a network.
    monkeypatch.setattr("destseg.batch_inspection.storage._PAUSES", ())
    content = write_image(tmp_path / "a.png", 200).read_bytes()
    for name in ("a", "b", "closed"):
        Vault().pipe(f"/plant/in/{name}.png", content)
    return lambda folder: f"vault://{LOGIN}plant/{folder}{OPTIONS}"


@pytest.fixture
def here(monkeypatch, in_this_process):
    """Work that is done in this process instead of Ray's."""

    def inspect(self, pieces):
        inspector = Inspector(self._work, self._files, lambda _: 1)
        for piece in pieces:
            answer = inspector({"piece": piece.to_json()})
            said.append(str(answer))
            if answer["trace"]:
                raise RuntimeError(answer["trace"])
            yield answer

    said = []
    monkeypatch.setattr(run, "session", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(run._Batch, "_run", inspect)
    return said


def no_secret_in(text):
    return not any(secret in text for secret in SECRETS)


def test_rows_and_record_and_console_tell_no_secret(vault, here, red_model, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    words = ["batch", str(red_model), vault("in"), "--output", vault("out")]
    assert main(words) == 1  # one cannot be read
    said = capsys.readouterr()
    assert "written: vault://plant/out\n" in said.out
    assert no_secret_in(said.out + said.err + caplog.text + "".join(here))
    output = Storage(vault("out"))
    names = output.names()
    assert len(names) == 3
    for name in names:
        assert no_secret_in(name + output.read(name).decode("latin-1"))
    import pyarrow
    import pyarrow.parquet

    (part,) = (name for name in names if name.endswith(".parquet"))
    rows = pyarrow.parquet.read_table(pyarrow.BufferReader(output.read(part))).to_pylist()
    assert [row["path"] for row in rows] == [
        f"vault://plant/in/{n}.png" for n in ("a", "b", "closed")
    ]
    assert no_secret_in(str(rows))
    assert "403 of https://host/x" in rows[2]["error"]


@pytest.mark.parametrize("output", ["full", "out"])
def test_errors_and_traces_tell_no_secret(output, vault, here, red_model, capsys, caplog):
    if output == "out":
        Vault().pipe("/plant/in/fault.png", b"any")
    words = ["batch", str(red_model), vault("in"), "--output", vault(output)]
    if output == "out":
        with pytest.raises(RuntimeError, match="RuntimeError: no signature of") as caught:
            main(words)
        told = str(caught.value)
    else:
        assert main(words) == 1
        told = ""
    said = capsys.readouterr()
    assert no_secret_in(told + said.out + said.err + caplog.text + "".join(here))


def test_an_unknown_store_and_an_empty_one_tell_no_secret(vault, red_model, capsys):
    for place in (vault("nothing"), vault("in").replace("vault", "nonesuch")):
        assert main(["batch", str(red_model), place, "--output", vault("out")]) in (1, 2)
        said = capsys.readouterr().err
        assert "plant" in said
        assert no_secret_in(said)


def test_a_workers_orders_show_no_secret(vault, red_model):
    from destseg.batch_inspection.inspector import Work
    from destseg.batch_inspection.stored import plan
    from destseg.inference.backends import Runtime

    stored, _, _ = plan(vault("in"))
    assert no_secret_in(repr(Work(None, stored, vault("out"), Runtime(), 1)))
