from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from conftest import EMBEDDED, without_findings
from safetensors.torch import load_file, save_file

DATA = ("--data", "stdlib:docs:heldout", "--data", "code=stdlib:code:heldout")
DOCS, CODE, ADAMW, MUON = (EMBEDDED / name for name in ("docs", "code", "adamw-1", "muon-1"))


def one_sentence(text: str) -> bool:
    """A single line that names the program, after the findings on the models; no traceback."""
    text = without_findings(text)
    return text.startswith("isthmus: ") and text.count("\n") == 1 and "Traceback" not in text


def test_version_and_help(isthmus) -> None:
    assert isthmus("--version").out.strip() == "0.1.0"
    assert "merge" in isthmus("--help").out
    assert "--require-gain" in isthmus("merge", "--help").out


def test_check_says_yes_and_no(isthmus, saved) -> None:
    a, b = saved("a"), saved("b", n_head=2)
    good, bad = isthmus("check", a, a), isthmus("check", a, b)
    assert (good.code, bad.code) == (0, 3)
    assert "these can be merged" in good.err
    assert "the number of heads differs: 4 in 'a', 2 in 'b'" in bad.err
    assert "these cannot be merged" in bad.err
    assert good.out == bad.out == ""


def test_check_for_programs(isthmus, saved, tmp_path: Path) -> None:
    a, b = saved("a"), saved("b", n_head=2)
    found = isthmus("check", a, b, "--json", "-", "--quiet")
    assert (found.code, found.err) == (3, "")
    assert json.loads(found.out)["mergeable"] is False
    isthmus("check", a, b, "--json", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == json.loads(found.out)


def test_merge_for_people_and_for_programs(isthmus, tmp_path: Path) -> None:
    found = isthmus("merge", DOCS, CODE, "-o", tmp_path / "out", *DATA, "--tokens", 1024, "--json", "-")
    assert found.code == 0
    report = json.loads(found.out)
    assert report == json.loads((tmp_path / "out" / "isthmus.json").read_text())
    for expected in (
        "A: docs",
        "B: code",
        "naive average",
        "merge at t = ",
        "ensemble of A and B",
        "spectrum preserved",
    ):
        assert expected in found.err
    assert "written to" in found.err


def test_a_merge_that_is_worse_says_so(isthmus, tmp_path: Path) -> None:
    plain = ("--tokens", 1024, "--align", "none", "--t", 0.5)
    found = isthmus("merge", ADAMW, EMBEDDED / "adamw-2", "-o", tmp_path / "out", *DATA, *plain)
    assert found.code == 0
    assert "the merge is worse than the better endpoint by " in found.err
    assert "spectrum contracted" in found.err


def test_a_gate_refuses_and_nothing_is_written(isthmus, tmp_path: Path) -> None:
    found = isthmus(
        "merge", ADAMW, MUON, "-o", tmp_path / "out", *DATA, "--tokens", 512, "--align", "orthogonal", "--require-gain"
    )
    assert found.code == 3
    assert one_sentence(found.err)
    assert "nothing was saved" in found.err
    assert list(tmp_path.iterdir()) == []


def test_quiet_is_quiet(isthmus, tmp_path: Path) -> None:
    found = isthmus("merge", DOCS, CODE, "-o", tmp_path / "out", "--align", "none", "--t", 0.5, "--quiet")
    assert (found.code, found.out, found.err) == (0, "", "")


def test_align_writes_a_model_that_a_plain_average_can_use(isthmus, tmp_path: Path) -> None:
    found = isthmus("align", ADAMW, MUON, "-o", tmp_path / "b", "--reference", tmp_path / "a", "--dtype", "float32")
    assert found.code == 0
    assert "log-probabilities within" in found.err
    report = json.loads((tmp_path / "b" / "isthmus.json").read_text())
    assert report["max_log_prob_error"] < 1e-4
    from isthmus.align.alignment import Alignment

    assert Alignment.load(tmp_path / "b" / "alignment.safetensors").score == report["score"]
    average = isthmus(
        "merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "m", *DATA, "--tokens", 512, "--align", "none"
    )
    assert average.code == 0
    direct = isthmus("merge", ADAMW, MUON, "-o", tmp_path / "d", *DATA, "--tokens", 512, "--align", "orthogonal")
    assert direct.code == 0
    barriers = [json.loads((tmp_path / name / "isthmus.json").read_text())["barrier"] for name in "md"]
    assert barriers[0] == pytest.approx(barriers[1], abs=1e-3)


def test_align_permutation_keeps_the_head_tied(isthmus, tmp_path: Path) -> None:
    assert isthmus("align", ADAMW, MUON, "-o", tmp_path / "b", "--method", "permutation").code == 0
    assert json.loads((tmp_path / "b" / "config.json").read_text()).get("tie_word_embeddings", True)
    assert load_file(tmp_path / "b" / "model.safetensors").keys() == load_file(MUON / "model.safetensors").keys()


def test_spectrum(isthmus) -> None:
    found = isthmus("spectrum", ADAMW, MUON, "--json", "-")
    assert found.code == 0
    assert "adamw-1 and muon-1: 0." in found.err
    assert "muon-1: trained by muon, recipe.json says muon" in found.err
    result = json.loads(found.out)
    assert result["distances"][0]["distance"] > 0.2
    assert [model["fingerprint"]["judged"]["optimizer"] for model in result["models"]] == ["adamw", "muon"]


BAD_USE = {
    "no such command": (("frobnicate",), "No such command"),
    "no such option": (("merge", DOCS, CODE, "--frob"), "No such option"),
    "no output": (("merge", DOCS, CODE), "Missing option"),
    "one model": (("check", DOCS), "give at least two"),
    "a t that is no number": (("merge", DOCS, CODE, "-o", "out", "--t", "half"), "--t takes auto or a number"),
    "another path": (("merge", DOCS, CODE, "-o", "out", "--path", "spiral"), "--path spiral: give linear"),
    "another alignment": (("merge", DOCS, CODE, "-o", "out", "--align", "magic"), "Invalid value for '--align'"),
    "no model": (
        ("merge", "./absent", CODE, "-o", "out", "--t", "0.5", "--align", "none"),
        "there is no directory 'absent'",
    ),
    "no text": (("merge", DOCS, CODE, "-o", "out", "--data", "absent.txt"), "no text at 'absent.txt'"),
    "no data and no t": (("merge", DOCS, CODE, "-o", "out"), "without text no loss can be measured"),
    "private, but not pushed": (
        ("merge", DOCS, CODE, "-o", "out", "--private"),
        "are for --push: say where to push to",
    ),
}


@pytest.mark.parametrize("use", BAD_USE)
def test_bad_use_is_one_sentence_and_exit_code_2(isthmus, use: str, tmp_path: Path, monkeypatch) -> None:
    arguments, message = BAD_USE[use]
    monkeypatch.chdir(tmp_path)
    found = isthmus(*arguments)
    assert found.code == 2
    assert message in found.err
    assert one_sentence(found.err)
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(isthmus, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = isthmus("check", "./absent", "./absent", "--debug")
    assert found.code == 2
    assert "Traceback" in found.err


def test_an_output_that_exists(isthmus, tmp_path: Path) -> None:
    plain = ("merge", DOCS, CODE, "--align", "none", "--t", 0.5)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    for target, message in (
        ("file", "is not a directory"),
        ("full", "is not empty: choose another, or add --overwrite"),
    ):
        found = isthmus(*plain, "-o", tmp_path / target)
        assert (found.code, one_sentence(found.err)) == (2, True)
        assert message in found.err
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    assert isthmus(*plain, "-o", tmp_path / "empty").code == 0
    for target, held in (("full", "notes.txt"), ("tree", "deep")):
        found = isthmus(*plain, "-o", tmp_path / target, "--overwrite")
        assert (found.code, one_sentence(found.err)) == (2, True)
        assert f"'{target}' holds '{held}', which isthmus did not write, so --overwrite does not replace" in found.err
        assert (tmp_path / target / held).exists()
    assert isthmus(*plain, "-o", tmp_path / "empty", "--overwrite").code == 0


def test_a_model_with_nan_leaves_the_old_output(isthmus, saved, tmp_path: Path) -> None:
    a = saved("a")
    assert isthmus("merge", a, a, "-o", tmp_path / "out", "--align", "none", "--t", 0.5).code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    tensors = load_file(a / "model.safetensors")
    tensors["transformer.h.1.mlp.c_proj.weight"][3, 3] = float("nan")
    save_file(tensors, a / "model.safetensors", metadata={"format": "pt"})
    found = isthmus("merge", a, a, "-o", tmp_path / "out", "--align", "none", "--t", 0.5, "--overwrite")
    assert (found.code, one_sentence(found.err)) == (2, True)
    assert "'transformer.h.1.mlp.c_proj.weight' of 'a' holds NaN or Inf" in found.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"a", "out"}


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "isthmus", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]


def test_the_process_ends_with_all_that_was_printed_and_its_code(saved, tmp_path: Path) -> None:
    """It leaves without the interpreter's last rites: what is buffered must be out, and what fails must be told."""
    a, b = saved("a"), saved("b", n_head=2)
    for other, code in ((a, 0), (b, 3)):
        whole = run("check", a, other, "--json", "-", "--quiet")
        assert whole.returncode == code
        assert json.loads(whole.stdout)["mergeable"] is (code == 0)
    command = [sys.executable, "-m", "isthmus", "check", str(a), str(a), "--json", "-", "--quiet"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "isthmus: cannot write the output: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def in_a_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount file systems of its own: a full disk, a read-only one."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc", script]
    if subprocess.run([*command[:-1], "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("this machine gives no mount namespace")
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("options", "prepare", "message"),
    [
        ("size=1m", "true", "could not write 'out': the disk is full; nothing was changed"),
        ("size=9m", "mount -o remount,ro {disk}", "the folder 'disk' cannot be written: choose another output"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_nothing(tmp_path: Path, options: str, prepare: str, message: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    merge = f"{sys.executable} -m isthmus merge {DOCS} {CODE} --align none --t 0.5 -o {disk}/out"
    script = f"mount -t tmpfs -o {options} none {disk}; {prepare.format(disk=disk)}; {merge} && exit 9; ls -A {disk}"
    found = in_a_namespace(script)
    assert found.returncode == 0, found
    assert message in found.stderr
    assert one_sentence(found.stderr)
    assert found.stdout == ""


def test_an_interrupt_of_a_real_process(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the work: one sentence, exit code 130, no output, nothing left beside it."""
    command = [sys.executable, "-m", "isthmus", "merge", str(ADAMW), str(MUON), "-o", str(tmp_path / "out"), *DATA]
    process = subprocess.Popen(
        [*command, "--tokens", "100000"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("isthmus: interrupted; nothing half-written was left\n")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "isthmus.json"])
def test_a_kill_while_saving_leaves_the_old_output(file: str, isthmus, tmp_path: Path, saved) -> None:
    """SIGKILL, which no handler sees, at the moment when a file of the new output appears."""
    model, out = saved("m", vocab_size=40000, n_embd=128), tmp_path / "out"
    merge = ("merge", model, model, "--align", "none", "--t", 0.5, "-o", out)
    assert isthmus(*merge).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    process = subprocess.Popen([sys.executable, "-m", "isthmus", *map(str, merge), "--overwrite"])
    while not (staging := list(tmp_path.glob(f".out.isthmus-*/new/out/{file}"))):
        assert process.poll() is None, "the process ended before it could be killed"
    process.kill()
    process.wait()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert staging[0].exists(), "the kill came too late to prove anything"
    assert isthmus(*merge, "--overwrite").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"m", "out"}, "what the killed process left is cleared away"


def test_output_is_for_terminals_and_pipes(tmp_path: Path) -> None:
    """No escape sequences where nobody sees them."""
    found = run("check", DOCS, CODE, env={**os.environ, "TERM": "dumb"})
    assert "\x1b" not in found.stderr + found.stdout


def test_out_of_range_ids_of_a_foreign_tokenizer(isthmus, saved, tmp_path: Path) -> None:
    model = saved("m", tokenizer=True)
    found = isthmus("merge", model, model, "-o", tmp_path / "out", *DATA)
    assert found.code == 2
    assert "beyond the vocabulary of 128: it belongs to another model" in found.err
    assert torch.get_default_dtype() == torch.float32


def test_align_learns_on_text(isthmus, tmp_path: Path) -> None:
    moved = ("align", ADAMW, MUON, "-o", tmp_path / "moved", "--method")
    without = isthmus(*moved, "combined")
    assert without.code == 2
    assert one_sentence(without.err)
    assert "--method combined looks at what the models do with text: add --data" in without.err
    found = isthmus(*moved, "learned", *DATA, "--align-steps", 24, "--json", "-")
    assert found.code == 0
    report = json.loads(found.out)
    assert (report["method"], report["asked"]) == ("learned", "learned")
    assert report["learning"]["asked_steps"] == 24
    assert report["max_log_prob_error"] < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


BENT = (*DATA, "--align", "orthogonal", "--tokens", 512, "--steps", 24, "--batch", 8, "--bend-optimizer", "muon")
BRIEF = (*DATA, "--align", "orthogonal", "--tokens", 256, "--steps", 24, "--batch", 4, "--bend-optimizer", "muon")


def test_a_path_is_trained_saved_and_merged(isthmus, tmp_path: Path) -> None:
    trained = isthmus("path", ADAMW, MUON, "-o", tmp_path / "path", *BENT, "--json", "-")
    assert trained.code == 0
    assert "on a polychain of 1 bend (muon, 24 steps) after orthogonal alignment" in trained.err
    report = json.loads(trained.out)
    assert (report["command"], report["path"]["kind"], report["path"]["bends"]) == ("path", "polychain", 1)
    assert report["reproduce"].startswith("isthmus path ./adamw-1 ./muon-1 -o path --data ")
    assert "--bend-optimizer muon --steps 24 --batch 8" in report["reproduce"]
    assert report["barrier"] < report["line_barrier"] < report["barrier_before_alignment"]
    names = {"path.json", "bends.safetensors", "alignment.safetensors", "seen.safetensors"}
    names |= {"isthmus.json", "report.html"}
    assert {file.name for file in (tmp_path / "path").iterdir()} == names
    assert [file.name for file in tmp_path.iterdir()] == ["path"]  # nothing of the training is left

    merge = ("merge", ADAMW, MUON, "-o", tmp_path / "out", *DATA, "--tokens", 512, "--path", tmp_path / "path")
    merged = isthmus(*merge, "--json", "-")
    assert merged.code == 0
    again = json.loads(merged.out)
    assert again["path"]["steps"] == 24
    assert again["reproduce"].endswith("--path ./path --tokens 512")
    assert again["barrier"] < again["line_barrier"]
    assert "model.safetensors" in {file.name for file in (tmp_path / "out").iterdir()}

    stored = ("--path", tmp_path / "path", "--t", 0.5)
    assert isthmus(*merge[:4], tmp_path / "bend", *stored, "--dtype", "float32").code == 0  # no text: nothing measured
    weights = load_file(tmp_path / "bend" / "model.safetensors")
    bend = load_file(tmp_path / "path" / "bends.safetensors")
    assert all(torch.equal(weights[name.partition("/")[2]], value) for name, value in bend.items())

    twice = isthmus(*merge[:4], tmp_path / "no", *stored, "--align", "permutation")
    assert twice.code == 2
    assert "the path in 'path' was trained after orthogonal alignment: leave --align out" in twice.err

    other = isthmus("merge", ADAMW, DOCS, "-o", tmp_path / "no", *stored)
    assert other.code == 2
    assert one_sentence(other.err)
    assert "the path in 'path' leads from 'adamw-1' and 'muon-1'" in other.err


def test_a_killed_training_goes_on_to_the_same_path(isthmus, saved, afresh, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("isthmus.merge.training.text.SELECT_BLOCKS", 32)  # as in the process that is killed
    a, b = (saved(f"models/{name}", seed, tokenizer=True, vocab_size=1024) for seed, name in enumerate("ab"))

    def command(name: str) -> tuple[object, ...]:
        return ("path", a, b, "-o", tmp_path / name, *BRIEF)

    assert isthmus(*command("whole")).code == 0
    process = subprocess.Popen([sys.executable, "-m", "isthmus", *map(str, command("cut"))], stderr=subprocess.DEVNULL)
    state = tmp_path / ".cut.isthmus-training" / "latest.json"
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert state.exists()
    assert not (tmp_path / "cut").exists()
    other = isthmus(*command("cut"), "--bend-lr", 0.01)
    assert other.code == 2
    assert "or --restart to drop it" in other.err
    resumed = isthmus(*command("cut"), "--debug")
    assert resumed.code == 0, resumed.err
    whole, cut = ((tmp_path / name / "bends.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    assert not state.parent.exists()


def test_a_training_that_diverges_says_so_and_keeps_what_was_good(isthmus, tmp_path: Path) -> None:
    found = isthmus("path", ADAMW, MUON, "-o", tmp_path / "path", *BRIEF, "--bend-lr", 1e30)
    assert found.code == 1
    assert "training diverged at step 2 (the loss was NaN or Inf): the bends of step 0 were kept" in found.err
    assert (tmp_path / "path" / "bends.safetensors").exists()


def test_a_gate_refuses_a_curve_and_its_training_is_not_lost(isthmus, tmp_path: Path) -> None:
    merge = ("merge", ADAMW, MUON, "-o", tmp_path / "out", *BRIEF, "--path", "bezier")
    refused = isthmus(*merge, "--max-barrier", 0.0001)
    assert refused.code == 3
    assert one_sentence(refused.err)
    assert "what was trained is kept for the same command with other gates" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == [".out.isthmus-training"]
    state = tmp_path / ".out.isthmus-training" / "latest.json"
    assert json.loads(state.read_text())["step"] == 24
    taken = isthmus(*merge, "--restore-spectrum", "--json", "-")
    assert taken.code == 0
    report = json.loads(taken.out)
    assert report["path"]["kind"] == "bezier"
    assert report["restored_spectrum"].keys() == {"kept", "select_loss", "select_loss_without"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


TRAINING_MISTAKES = {
    "a path that is none": (("--path", "spline"), "--path spline: give linear, polychain, bezier, or a directory"),
    "a label that is none": ((*DATA, "--path", "bezier", "--fit-on", "law"), "--fit-on law: there is no text"),
    "a learning rate": ((*DATA, "--path", "bezier", "--bend-lr", 0), "--bend-lr is above 0"),
}


@pytest.mark.parametrize("mistake", TRAINING_MISTAKES)
def test_mistakes_in_training(isthmus, tmp_path: Path, mistake: str) -> None:
    options, sentence = TRAINING_MISTAKES[mistake]
    found = isthmus("merge", ADAMW, MUON, "-o", tmp_path / "out", "--align", "none", "--tokens", 512, *options)
    assert found.code == 2
    assert one_sentence(found.err)
    assert sentence in found.err
    assert list(tmp_path.iterdir()) == []


def test_more_than_two_models_and_recipes(isthmus, tmp_path: Path) -> None:
    three = isthmus(
        "merge", DOCS, CODE, ADAMW, "-o", tmp_path / "three", "--weight", 1, "--weight", 1, "--weight", "0,2"
    )
    assert three.code == 0
    assert "3 models merged by linear; without text, no loss was measured" in three.err
    recipe = tmp_path / "recipe.yml"
    models = "".join(
        f"- {{model: {model}, parameters: {{weight: {weight}}}}}\n"
        for model, weight in ((DOCS, 1), (CODE, 1), (ADAMW, [0, 2]))
    )
    recipe.write_text(f"merge_method: linear\nmodels:\n{models}")
    again = isthmus("merge", recipe, "-o", tmp_path / "again", "--json", "-")
    assert again.code == 0
    assert json.loads(again.out)["method"]["name"] == "linear"
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("three", "again")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((DOCS,), "two models or more, one with --base, or a recipe"),
        ((DOCS, CODE, "--base", ADAMW), "are for a --method: name one"),
        ((DOCS, CODE, "--soup", "greedy"), "are for a --method: name one"),
        ((DOCS, CODE, ADAMW, "--path", "linear"), "--path is for two models"),
        ((DOCS, CODE, ADAMW, "--path", "bezier"), "arms from the models to their centre are straight"),
        ((DOCS, CODE, "--method", "linear", "--restore-spectrum"), "--restore-spectrum is for two models"),
        ((DOCS, CODE, ADAMW, "--align", "learned"), "is fitted to text: add --data"),
        ((DOCS, CODE, ADAMW, "--align-steps", 5, "--data", "stdlib:docs"), "--align-steps is for --align learned"),
        ((DOCS, CODE, "--method", "ties"), "give --base"),
        ((DOCS, CODE, "--method", "linear", "--weight", "heavy"), "a number, or a gradient"),
        ((DOCS, CODE, "--method", "linear", "--max-memory", "1GB"), "--max-memory is for measuring and aligning"),
        (("none.yml",), "cannot read the recipe 'none.yml'"),
        (("none.yml", "--method", "ties"), "leave --method out"),
        (("none.yml", "--t", 0.3), "leave --t out"),
        ((DOCS, CODE, "--method", "linear", "--optimizer-a", "muon"), "--optimizer-a is for two models"),
    ],
)
def test_what_a_merge_by_a_method_does_not_take(
    isthmus, tmp_path: Path, arguments: tuple[object, ...], said: str
) -> None:
    found = isthmus("merge", *arguments, "-o", tmp_path / "out")
    assert found.code == 2
    assert one_sentence(found.err)
    assert said in found.err
    assert not (tmp_path / "out").exists()


def test_align_reads_layers_when_it_is_their_turn(isthmus, tmp_path: Path) -> None:
    streamed = isthmus("align", ADAMW, MUON, "-o", tmp_path / "streamed", "--stream", "--reference", tmp_path / "a")
    usual = isthmus("align", ADAMW, MUON, "-o", tmp_path / "usual")
    assert (streamed.code, usual.code) == (0, 0)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("streamed", "usual"))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name].float(), other[name].float(), atol=1e-3) for name in one)
    assert (tmp_path / "a" / "model.safetensors").exists()
    refused = isthmus("align", ADAMW, MUON, "-o", tmp_path / "x", "--stream", "--method", "combined", *DATA)
    assert refused.code == 2
    assert "take permutation or orthogonal" in refused.err


def test_the_help_names_the_methods_that_there_are(isthmus) -> None:
    from isthmus.merge.operators.registry import OPERATORS

    shown = " ".join(isthmus("merge", "--help").out.split())
    named = shown.partition("by an operator: ")[2].partition(". ")[0]
    assert set(re.findall(r"[a-z_]+", named)) - {"with", "base", "data"} == set(OPERATORS) - {"passthrough"}, (
        "that is for recipes"
    )


def program(*words: str) -> Any:
    """The command of these names, as typer reads it."""
    from isthmus.cli import app

    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    return command


def every_command(command: Any) -> list[Any]:
    inner = getattr(command, "commands", {}).values()
    return [command, *(leaf for one in inner for leaf in every_command(one))]


def test_every_help_has_two_examples_that_the_command_line_reads() -> None:
    for command in every_command(program()):
        examples = [line.split() for line in command.epilog.splitlines() if line.startswith("  isthmus ")]
        assert len(examples) == 2, command.name
        for _, *words in examples:
            assert len(" ".join(words)) <= 70, "it does not fit into a line of the help"
            count = 2 if words[0] == "lab" else 1
            named = program(*words[:count])
            assert named is command or hasattr(command, "commands") or named.name == command.name
            named.make_context(named.name, words[count:])


def plan_of(plan: type, *words: str) -> Any:
    """The plan that `isthmus merge` makes of options."""
    from isthmus.merge.options import build

    return build(plan, program("merge").make_context("merge", ["a", "b", "-o", "out", *words]).params)


def test_options_make_plans_and_plans_say_their_options() -> None:
    from isthmus.merge.options import unusual
    from isthmus.merge.plans import CurvePlan, MergePlan, OperatorPlan

    assert plan_of(MergePlan) == MergePlan()
    assert plan_of(OperatorPlan) == OperatorPlan()
    words = [
        "--align-steps",
        "5",
        "--mixed-precision",
        "bf16",
        "--align",
        "none",
        "--t",
        "0.25",
        "--objective",
        "worst",
    ]
    words += ["--interior", "0.2", "--fit-on", "law", "--fit-on", "code", "--no-spectrum", "--restore-spectrum"]
    words += ["--max-excess", "0.3", "--tokens", "64", "--dtype", "float16", "--seed", "3"]
    plan = plan_of(MergePlan, *words, "--require-gain")
    assert plan.gates.require_gain
    assert unusual(plan, MergePlan()) == words  # a gate lets pass what is there
    assert (plan.t, plan.fit_on, plan.dtype, plan.learn.seed) == (0.25, ("law", "code"), "float16", 3)
    assert unusual(plan, MergePlan(), {"--fit-on", "--no-spectrum", "--spectrum"}) == [*words[:12], *words[17:]]
    bent = ["--bends", "2", "--bend-start", "midpoint", "--steps", "9", "--bend-lr", "0.1", "--mixed-precision", "no"]
    curve = plan_of(MergePlan, "--path", "bezier", "--seed", "3", *bent).path
    assert (curve.kind, curve.training.seed) == ("bezier", 3)
    assert unusual(curve, CurvePlan()) == bent
    assert plan_of(MergePlan, "--path", str(EMBEDDED)).path == EMBEDDED
    assert plan_of(OperatorPlan, "--weight", "1", "--weight", "0,2").weights == ((1.0,), (0.0, 2.0))
