"""The command line: rank, search and report, as a user types them."""

import numpy as np
import pytest

from jaxnas.runs import ScoreStore
from jaxnas.spaces import nasbench201

SMALL = ("--options=channels=2,cells=1", "--batch_size=4", "--image_size=8", "--seed=1")


@pytest.fixture(scope="module")
def jaxnas(command, compiled):
    """`jaxnas(*arguments)`: run a command; all share what is compiled."""
    return lambda *arguments: command("jaxnas", *arguments, f"--compilation_cache={compiled}")


def test_without_a_command_random_cells_are_ranked(jaxnas):
    run = jaxnas("--num_archs=3", "--by=naswot,params", *SMALL)
    assert run.returncode == 0, run.stderr
    assert "Ranked by naswot, larger is better" in run.stdout
    table = run.stdout.split("larger is better")[1].split("How well")[0]
    assert [line.split()[0] for line in table.splitlines() if "|+|" in line] == ["1", "2", "3"]
    assert "accuracy that the benchmark reached (cifar10 %): #params" in " ".join(
        run.stdout.split()
    )


def test_cells_of_a_file_are_ranked(jaxnas, tmp_path):
    cells = [(3, 3, 3, 3, 3, 3), (1, 0, 0, 0, 0, 0)]
    strings = [nasbench201().to_string(np.array(cell)) for cell in cells]
    (tmp_path / "cells.txt").write_text("\n".join([*strings, "", ""]), encoding="utf-8")
    run = jaxnas("rank", f"--archs={tmp_path / 'cells.txt'}", "--by=params", *SMALL)
    assert run.returncode == 0, run.stderr
    assert f"The best\n--------\n\n{strings[0]}\n" in run.stdout
    assert run.stdout.index(strings[0][:20]) < run.stdout.index(strings[1][:20])


def test_a_search_is_resumed_and_reported(jaxnas, tmp_path):
    command = (
        *("search", "--strategy=random", "--evaluations=5", "--by=params", "--caps=params=5000"),
        *(f"--output_dir={tmp_path}", *SMALL),
    )
    first, second = jaxnas(*command), jaxnas(*command)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "What training says" in first.stdout
    assert "random, mean of 1,000 draws" in first.stdout
    assert (tmp_path / "report.html").is_file()
    compile((tmp_path / "train.py").read_text(encoding="utf-8"), "train.py", "exec")
    best = [run.stdout.split("The best\n--------\n\n")[1].split("\n")[0] for run in (first, second)]
    assert best[0] == best[1]
    with ScoreStore(tmp_path / "scores.sqlite") as store:
        store.open_run({"space": "killed before its first score"})
    shown = jaxnas("report", f"--output_dir={tmp_path}")
    assert shown.returncode == 0, shown.stderr
    assert "nasbench201: the best by params" in shown.stdout
    assert best[0] in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("find",), "Unknown command 'find': use rank, search, report, run."),
        (("run", "halvin"), "Unknown experiment 'halvin': use connectivity_dags, "),
        (("search", "--caps=params"), "--caps has the form name=value: got 'params'."),
        (("rank", "--options=depth=3"), "nasbench201 has the options channels, cells, classes"),
        (("rank", "--by=naswott"), "Unknown proxy 'naswott'"),
        (("report",), "A report needs the folder of a run: got none; name it in --output_dir."),
        (("report", "--output_dir=nowhere"), "holds scores.sqlite: got none in nowhere."),
    ],
)
def test_wrong_arguments_are_one_sentence(jaxnas, arguments, sentence):
    run = jaxnas(*arguments)
    assert run.returncode == 1
    assert sentence in run.stderr
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1


def test_the_help_names_the_flags(jaxnas):
    run = jaxnas("--help")
    assert run.stdout.startswith("Rank and search networks without training any")
    assert "--strategy: <exhaustive|random|regularized_evolution|local_search>" in run.stdout


def test_experiments_are_listed_and_run(command, compiled, tmp_path):
    listed = command("jaxnas", "run").stdout
    assert "jaxnas run halving " in listed
    assert "common" not in listed
    tiny = ["--channels=2", "--cells=1", "--batch_size=4", "--image_size=8", "--num_seeds=1"]
    where = [f"--output_dir={tmp_path}", f"--compilation_cache={compiled}"]
    chosen = ["--num_archs=4", "--proxies=naswot", "--seed=3"]
    run = command("jaxnas", "run", "correlations", *chosen, *tiny, *where)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "report.html").is_file()
    assert "option_seed" in (tmp_path / "summary.json").read_text(encoding="utf-8")
    described = command("jaxnas", "run", "halving", "--help").stdout
    assert described.startswith("A race over NAS-Bench-201")
    assert "--rungs" in described


def test_a_command_has_its_flags_alone(jaxnas):
    help_of_rank = jaxnas("rank", "--help").stdout
    assert "--num_archs" in help_of_rank
    assert "--evaluations" not in help_of_rank.split("flags:")[1]
    run = jaxnas("rank", "--evaluations=3")
    assert run.returncode == 1
    assert "Unknown command line flag 'evaluations'" in run.stderr
