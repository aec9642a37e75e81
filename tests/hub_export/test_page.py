"""The page of `--to web`: it asks nobody but its server, and its calculator is the calculator."""

import json
import re
import shutil
import subprocess

import pytest

from yxanul.evaluation.calculator import OPEN, result_of
from yxanul.hub_export import web

TEXTS = [
    "<<7+8=", "<<7 + 8 =", "a <<2+3*4=", "<<(2+3)*4=", "<<10/4=", "<<1/3=", "<<2/3=", "<<8-10=", "<<-3*-2=",
    "<<0.1+0.2=", "<<.5*4.=", "<<9/3/3=", "<<10-3-2=", "<<0-1/100000=", "<<0-1/20000=", "<<3/20000=", "<<1/20000=",
    "<<1/8=", "<<2*(3-(4+5))=", "<<99999999999+0=", "<<99999999999.99999+0=", "<<100000000000+0=",
    "<<123456789.12345*2=", "<<-7/-2=", "<<6*-(2)=", "<<=", "<<<<=", "<<7=", "<<7+=", "<<+7+8=", "<<7++8=", "<<7 8=",
    "<<(7+8=", "<<7+8)=", "<<()=", "<<1/0=", "<<1/(2-2)=", "<<2**3=", "<<2^3=", "<<7+x=", "<<__import__('os')=",
    "<<fetch('x')=", "<<1.2.3+1=", "<<7,000+1=", "<<1e9+1=", "<<1_0+1=", "<<\u0663+\u0664=", "<<0x10+1=", "7+8=",
    "<7+8=", "<<7+8", "<<7+8==", "<<7+\n8=", "<<7+8=\n", "<<7+8=\n\n", "<<7+8=15>>=",
    "<<" + "(" * 19 + "1+1" + ")" * 19 + "=", "<<" + "(" * 20 + "1+1" + ")" * 20 + "=",
    "<<" + "(" * 21 + "1+1" + ")" * 21 + "=", "<<" + "-" * 21 + "1=", "<<" + "9" * 99 + "+=",
    "<<" + "1+" * 49 + "11=", "<<" + "1+" * 50 + "1=", "<<7\u00a0+\u20098=", "<<7\ufeff+8=", "<<7\x1c+8=",
    "<<7+8 \x85=", "<<\U0001f600=", "",
]  # fmt: skip


def of_python(text):
    found = OPEN.search(text)
    return result_of(found.group(1)) if found else None


@pytest.mark.skipif(not shutil.which("node"), reason="node is not here")
def test_the_pages_calculator_is_the_calculator(tmp_path):
    shutil.copyfile(web.PAGE / "calculator.js", tmp_path / "calculator.mjs")
    (tmp_path / "ask.mjs").write_text(
        'import { resultAtEnd } from "./calculator.mjs";\n'
        f"console.log(JSON.stringify({json.dumps(TEXTS)}.map(resultAtEnd)));\n"
    )
    done = subprocess.run(["node", "ask.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert dict(zip(TEXTS, json.loads(done.stdout), strict=True)) == {text: of_python(text) for text in TEXTS}
    assert sum(of_python(text) is not None for text in TEXTS) > 20


@pytest.mark.parametrize("file", sorted(web.PAGE.iterdir()), ids=lambda file: file.name)
def test_no_file_of_the_page_names_another_place(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"(?:https?|wss?)://|['\"(]//|@import|\beval\b\(|Function\(|innerHTML", text)


def test_the_browser_is_told_to_ask_nobody_else():
    (policy,) = re.findall(r'Content-Security-Policy"\s+content="([^"]*)"', (web.PAGE / "index.html").read_text())
    rules = dict(rule.split(maxsplit=1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert not re.search(r"\*|unsafe-(inline|eval)\b(?<!wasm-unsafe-eval)", policy)


def test_every_id_that_the_script_asks_for_is_in_the_page():
    asked = set(re.findall(r'\bat\("(\w+)"\)', (web.PAGE / "page.js").read_text()))
    assert asked <= set(re.findall(r'id="(\w+)"', (web.PAGE / "index.html").read_text()))


def test_without_npm_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(web, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(web.onnx, "check", lambda source, kinds: None)
    with pytest.raises(web.BadInput, match="install Node.js"):
        web.check(None, ("fp32",))


def test_an_npm_that_fails_ends_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(web, "CACHE", tmp_path / "cache")
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error getaddrinfo ENOTFOUND' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(web.BadInput, match=r"could not fetch @huggingface/transformers@.*ENOTFOUND.*npm pack"):
        web._fetch(web.TRANSFORMERS, web.RUN_FILES[web.TRANSFORMERS], tmp_path)


@pytest.mark.parametrize(
    "kinds, webgpu, wasm",
    [(["fp16", "int8"], "fp16", "int8"), (["fp32"], "fp32", "fp32"), (["q4", "int8"], "q4", "int8")],
)
def test_each_device_gets_what_it_is_good_at(kinds, webgpu, wasm):
    assert (web._for("webgpu", kinds), web._for("wasm", kinds)) == (webgpu, wasm)
