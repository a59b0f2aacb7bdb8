"""Training: the recipe, what stops it, what is refused, and what it shows meanwhile."""

import math
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient

from reid_core import checkpoint, records, train
from reid_core.config import ConfigError, RunConfig
from reid_core.data.index import DatasetError
from reid_core.data.paperdolls import draw_sysu
from reid_core.methods import build, configure
from reid_core.methods.baselines import Model
from reid_core.precision import computes_bfloat16
from reid_core.progress import Progress
from reid_core.records import RunError
from reid_core.retrieval.features import measure
from reid_core.train import TrainingStopped, fit, learning_rate, make_optimizer, train_step


@pytest.fixture(autouse=True)
def own_results(monkeypatch, tmp_path):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))


def smoke(variant: str = "two-stream", *, seed: int = 0, **overrides) -> RunConfig:
    return configure("baselines", variant, "smoke", overrides, seed=seed)


def checkpoint_of(run: RunConfig) -> dict:
    return torch.load(records.folder_of(run) / "checkpoint.pt", weights_only=True)


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# the recipe


def test_learning_rate_by_hand():
    run = configure("baselines", "two-stream", "paper")
    by_hand = {0: 0, 2.5: 0.025, 5: 0.05, 10: 0.1, 19.99: 0.1, 20: 0.01, 49.9: 0.01, 50: 0.001}
    for epoch, rate in by_hand.items():
        assert learning_rate(run, epoch) == pytest.approx(rate), epoch
    assert learning_rate(smoke(warmup=0), 0) == 0.1


def test_cosine_learning_rate_by_hand():
    """4 epochs of warm-up of 12, then half a cosine of 8 epochs: √½ at a quarter of them."""
    run = smoke(schedule="cosine", warmup=4, epochs=12, lr=0.2, milestones=[1])
    by_hand = {1: 0.05, 4: 0.2, 6: 0.1 * (1 + math.sqrt(0.5)), 8: 0.1, 12: 0}
    for epoch, rate in by_hand.items():
        assert learning_rate(run, epoch) == pytest.approx(rate), epoch


def test_clip_shortens_the_gradient_of_all_parameters(batch):
    """Plain SGD at rate 1 moves the parameters by the gradient itself."""
    moved = {}
    for clip in (0.0, 0.5, 1e9):
        run = smoke(clip=clip, lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0)
        torch.manual_seed(0)
        model = build(run, 4)
        before = [p.detach().clone() for p in model.parameters()]
        train_step(run, model, make_optimizer(run, model), batch, 0)
        pairs = zip(model.parameters(), before, strict=True)
        moved[clip] = torch.cat([(p - b).flatten() for p, b in pairs]).detach().double()
    assert moved[0.0].norm() > 1 and torch.equal(moved[0.0], moved[1e9])
    assert moved[0.5].norm().item() == pytest.approx(0.5, rel=1e-3)
    direction = torch.cosine_similarity(moved[0.5], moved[0.0], dim=0)
    assert direction.item() == pytest.approx(1, abs=1e-5)


def test_learning_rate_of_every_step(monkeypatch, tiny_dolls):
    """Two steps in an epoch, two epochs of warm-up, a milestone after the third: the rate is the
    one at a step's middle, and the backbone's is half of the head's."""
    seen = []
    step = torch.optim.SGD.step

    def spy(optimizer, *arguments):
        seen.append([group["lr"] for group in optimizer.param_groups])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    run = smoke(steps=2, epochs=4, warmup=2, milestones=[3], lr=0.08, backbone_lr=0.5)
    history = fit(run, tiny_dolls).history
    expected = [0.01, 0.03, 0.05, 0.07, 0.08, 0.08, 0.008, 0.008]
    assert [head for _, head in seen] == pytest.approx(expected)
    assert [backbone for backbone, _ in seen] == pytest.approx([0.5 * r for r in expected])
    assert history["lr"].tolist() == pytest.approx(expected[1::2])


def test_optimizer_groups():
    run = smoke(backbone_lr=0.1, weight_decay=1e-3, momentum=0.8, pooling="gem")
    model = build(run, 4)
    optimizer = make_optimizer(run, model)
    backbone, head = optimizer.param_groups
    assert (backbone["factor"], head["factor"]) == (0.1, 1.0)
    assert len(backbone["params"]) == len(list(model.backbone.parameters()))
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for p in head["params"]} == {
        "head.neck.weight",
        "head.neck.bias",
        "head.classifier.weight",
    }
    for group in (backbone, head):
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.8, True, 1e-3)
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        other = make_optimizer(smoke(optimizer=name, momentum=0.8, backbone_lr=1.0), model)
        assert type(other) is kind and other.param_groups[0]["betas"] == (0.8, 0.999)
        assert sum(len(g["params"]) for g in other.param_groups) == len(names)


def test_history_and_model(tiny_dolls):
    run = smoke(epochs=3)
    trained = fit(run, tiny_dolls)
    assert list(trained.history) == [
        *("epoch", "lr", "identity", "triplet", "total", "spread", "visits", "seconds")
    ]
    assert trained.history["epoch"].tolist() == [1, 2, 3]
    total = trained.history["identity"] + trained.history["triplet"]
    assert trained.history["total"].to_numpy() == pytest.approx(total.to_numpy(), rel=1e-6)
    pd.testing.assert_frame_equal(pd.read_csv(trained.folder / "history.csv"), trained.history)
    assert not trained.model.training
    assert trained.model.head.classifier.out_features == 8  # 4 training and 4 validation identities


def test_validation_identities_are_not_trained_on(tiny_dolls):
    assert fit(smoke(evaluate_on="val"), tiny_dolls).model.head.classifier.out_features == 4


def test_seed_decides_every_bit(monkeypatch, tmp_path, tiny_dolls):
    settings = {"trivial_augment": True, "erase": 0.5, "grayscale": 0.5}
    first = fit(smoke(**settings), tiny_dolls)
    other = fit(smoke(seed=1, **settings), tiny_dolls)
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "again"))
    torch.rand(5)  # whatever was drawn before does not matter
    second = fit(smoke(**settings), tiny_dolls)
    assert same_bits(first.model.state_dict(), second.model.state_dict())
    columns = first.history.columns.drop("seconds")
    assert first.history[columns].equals(second.history[columns])
    assert not same_bits(first.model.state_dict(), other.model.state_dict())


# what stops it


def spoil(monkeypatch, call: int, change) -> None:
    """From the ``call``-th batch on, ``change`` alters the loss terms."""
    calls, losses = [], Model.losses

    def spoiled(model, batch, epoch):
        calls.append(epoch)
        terms = losses(model, batch, epoch)
        return change(terms, model) if len(calls) >= call else terms

    monkeypatch.setattr(Model, "losses", spoiled)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_term_that_is_not_finite_stops_by_name_and_keeps_the_last_epoch(
    value, monkeypatch, tmp_path, tiny_dolls
):
    run = smoke(epochs=3)
    expected = fit(run, tiny_dolls)
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        spoil(patch, 5, lambda terms, model: terms | {"triplet": terms["triplet"] * value})
        with pytest.raises(TrainingStopped) as error:
            fit(run, tiny_dolls)
    message = str(error.value)
    assert message.startswith(
        f"loss triplet = {value} in epoch 2, step 2. The checkpoint after epo"
    )
    kept = checkpoint_of(run)
    assert len(kept["history"]) == 1 and all(v.isfinite().all() for v in kept["model"].values())
    assert records.finished(run) is None
    assert same_bits(fit(run, tiny_dolls).model.state_dict(), expected.model.state_dict())


def test_first_epoch_has_nothing_to_keep(monkeypatch, tiny_dolls):
    spoil(monkeypatch, 1, lambda terms, model: terms | {"identity": terms["identity"] / 0})
    with pytest.raises(TrainingStopped, match=r"identity = inf in epoch 1, step 1\. Nothing was"):
        fit(smoke(), tiny_dolls)


def test_sum_of_finite_terms_that_overflows_is_called_total(monkeypatch, tiny_dolls):
    spoil(monkeypatch, 1, lambda terms, model: {k: v * 0 + 3e38 for k, v in terms.items()})
    with pytest.raises(TrainingStopped, match="loss total in epoch 1, step 1"):
        fit(smoke(), tiny_dolls)


def test_weights_ruined_in_the_last_step_do_not_replace_a_good_checkpoint(monkeypatch, tiny_dolls):
    """√0 is finite and its gradient is not: no loss shows it any more when it is the last step."""
    run = smoke(epochs=2, steps=2)
    with monkeypatch.context() as patch:
        root = lambda terms, model: terms | {"x": (0 * model.head.classifier.weight).sum().sqrt()}  # noqa: E731
        spoil(patch, 4, root)
        with pytest.raises(
            TrainingStopped, match=r"head\.classifier\.weight is not .* after epoch 2\. The"
        ):
            fit(run, tiny_dolls)
    assert len(checkpoint_of(run)["history"]) == 1
    assert len(fit(run, tiny_dolls).history) == 2


def test_history_has_the_mean_of_every_term(monkeypatch, tiny_dolls):
    values = iter((1.0, 2.0, 6.0, 4.0, 5.0, 9.0))
    spoil(
        monkeypatch,
        1,
        lambda terms, model: terms | {"triplet": 0 * terms["triplet"] + next(values)},
    )
    assert fit(smoke(), tiny_dolls).history["triplet"].tolist() == [3.0, 6.0]


# what is refused, and what is not done again


def test_other_settings_and_other_data_are_refused(tiny_dolls, tmp_path):
    fit(smoke(), tiny_dolls)
    with pytest.raises(RunError, match=r"lr is 0\.1 there, 0\.2 asked"):
        fit(smoke(lr=0.2), tiny_dolls)
    other = tmp_path / "other"
    draw_sysu(other, seed=1, train=4, val=4, test=4, images=2, height=48, width=24, workers=1)
    with pytest.raises(RunError, match=r"data is '.*' there, '.*' asked"):
        fit(smoke(), other)


def test_run_that_could_not_start_binds_nothing(tiny_dolls):
    with pytest.raises(ValueError, match=r"weights: found no file '.*absent\.pth'"):
        fit(smoke(backbone="resnet18", weights="absent.pth"), tiny_dolls)
    with pytest.raises(DatasetError, match="identities: a batch needs 50"):
        fit(smoke(identities=50), tiny_dolls)
    assert len(fit(smoke(), tiny_dolls).history) == 2


@pytest.mark.parametrize("name", ["cud", "cuda:99", "", "meta", "cpu:1"])
def test_device_that_is_not_there_is_refused(tiny_dolls, name):
    with pytest.raises(ConfigError, match=f"device: found '{name}', expected auto, cpu or one of"):
        fit(smoke(), tiny_dolls, name)
    assert not records.folder_of(smoke()).exists()


def test_setting_that_only_a_batch_finds_wrong_is_named(tiny_dolls):
    run = configure("baselines", "pcb", "smoke", {"parts": 5})
    with pytest.raises(ConfigError, match="baselines/pcb: parts: the feature map has"):
        fit(run, tiny_dolls)


def test_dataset_that_lacks_what_its_protocol_asks_keeps_what_is_trained(tmp_path):
    root = tmp_path / "dolls"
    draw_sysu(root, train=8, val=0, test=1, images=2, height=48, width=24, workers=1)
    for camera in ("cam1", "cam2"):
        shutil.rmtree(root / camera / "0009", ignore_errors=True)
    trained = fit(smoke(), root)
    with pytest.raises(DatasetError, match=r"dolls: cannot be measured: modalities: found"):
        measure(trained)
    assert (trained.folder / "checkpoint.pt").exists()


def test_dataset_without_the_split_to_measure_on_is_refused_before_training(regdb):
    run = configure(
        "baselines", "two-stream", "smoke", {"evaluate_on": "val", "identities": 2}, dataset="regdb"
    )
    with pytest.raises(DatasetError, match="regdb has no split 'val'"):
        fit(run, regdb)
    assert not records.folder_of(run).exists()


def test_run_in_use_is_refused(tiny_dolls):
    folder = records.folder_of(smoke())
    folder.mkdir(parents=True)
    program = (
        "import filelock, sys\n"
        "with filelock.FileLock(sys.argv[1]):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(RunError, match="another process is training this run"):
            fit(smoke(), tiny_dolls)
        other.kill()  # and what a killed process held is free
    assert len(fit(smoke(), tiny_dolls).history) == 2


def test_finished_run_is_reused_without_training(monkeypatch, tiny_dolls, capsys):
    first = fit(smoke(), tiny_dolls)
    content = measure(first)
    monkeypatch.setattr(train, "_train_epoch", None)
    capsys.readouterr()
    second = fit(smoke(), tiny_dolls)
    assert capsys.readouterr().out == "all 2 epochs were trained before\n"
    assert same_bits(first.model.state_dict(), second.model.state_dict())
    pd.testing.assert_frame_equal(first.history, second.history)
    assert measure(second) == content


def test_lost_checkpoint_is_trained_and_measured_anew(tiny_dolls):
    content = measure(fit(smoke(), tiny_dolls))
    folder = records.folder_of(smoke())
    (folder / "checkpoint.pt").unlink()
    trained = fit(smoke(), tiny_dolls)
    assert records.finished(smoke()) is None
    assert measure(trained)["results"] == content["results"]


class Planted:
    """A pickle that would make a folder when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_damaged_checkpoint_is_refused_and_never_executed(tiny_dolls, tmp_path):
    fit(smoke(), tiny_dolls)
    file = records.folder_of(smoke()) / "checkpoint.pt"
    whole, planted = file.read_bytes(), tmp_path / "planted"
    damaged = [b"", b"\0", whole[:1000], whole[: len(whole) // 2], whole[:-1], whole[100:]]
    damaged += [os.urandom(size) for size in (1, 10, 1000, 100_000)]
    damaged += [pickle.dumps(Planted(planted), protocol=2)]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(RunError, match=r"checkpoint\.pt: damaged.*Delete the file to train"):
            fit(smoke(), tiny_dolls)
    for state in (Planted(planted), [], {}, {"model": {}, "optimizer": {}, "history": []}):
        torch.save(state, file)
        with pytest.raises(RunError, match=r"checkpoint\.pt: damaged"):
            fit(smoke(), tiny_dolls)
    assert not planted.exists()
    file.write_bytes(whole)
    assert len(fit(smoke(), tiny_dolls).history) == 2


def test_checkpoint_of_another_model_is_refused(tiny_dolls):
    wide, narrow = smoke(seed=1, share_from=2), smoke()
    fit(wide, tiny_dolls)
    fit(narrow, tiny_dolls)
    target = records.folder_of(narrow) / "checkpoint.pt"
    target.write_bytes((records.folder_of(wide) / "checkpoint.pt").read_bytes())
    with pytest.raises(RunError, match=r"seed is 1 there, 0 asked; share_from is 2 there, 1 ask"):
        fit(narrow, tiny_dolls)


def test_checkpoint_and_history_are_written_whole_or_not_at_all(monkeypatch, tiny_dolls):
    run = smoke()
    save = torch.save

    def half(state, file):
        if len(state["history"]) == 2:
            file.write(b"half")
            raise OSError("No space left on device")
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(OSError, match="No space"):
            fit(run, tiny_dolls)
    assert len(checkpoint_of(run)["history"]) == 1
    written = []
    note = lambda path, content, **_: written.append(path.name)  # noqa: E731
    for module in (checkpoint, train):
        monkeypatch.setattr(module, "write_atomically", note)
    fit(run, tiny_dolls)
    assert written == ["checkpoint.pt", "history.csv"]


# what it shows


def test_log_has_a_line_for_each_epoch(tiny_dolls, capsys):
    fit(smoke(), tiny_dolls)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("precision: float32") == (not computes_bfloat16(torch.device("cpu")))
    lines = [line for line in lines if line.startswith("epoch")]
    assert [line[:12] for line in lines] == ["epoch   1/2 ", "epoch   2/2 "]
    assert all(f" {word} " in lines[1] for word in ("lr", "identity", "triplet", "total"))


def test_no_display_outside_a_kernel(capsys):
    import ipykernel  # noqa: F401 - that it is imported does not mean that it runs

    progress = Progress(epochs=3, steps=2, done=1)
    assert progress.handle is None
    progress.shown -= 10
    progress.step_done(1, 0, 2.0)
    assert capsys.readouterr().out == "resuming after epoch 1 of 3\n"


def test_one_display_in_a_notebook():
    source = (
        "from reid_core.progress import Progress\n"
        "progress = Progress(epochs=2, steps=50)\n"
        "for epoch in range(2):\n"
        "    for step in range(50):\n"
        "        progress.shown -= 1  # as if a second had passed\n"
        "        progress.step_done(epoch, step, 1.5)\n"
        "    progress.epoch_done({'epoch': epoch + 1, 'lr': .1, 'total': 1.5, 'seconds': 2})\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    display, *log = notebook.cells[0].outputs
    assert display["data"]["text/plain"] == "2 epochs done"
    assert [line for output in log for line in output["text"].splitlines()] == [
        f"epoch   {n}/2  lr 0.1  total 1.500  2.0 s" for n in (1, 2)
    ]


def test_every_epoch_of_every_seed_draws_its_own_numbers(monkeypatch, tiny_dolls):
    drawn, losses = [], Model.losses

    def spy(model, batch, epoch):
        drawn.append(torch.rand(()).item())
        return losses(model, batch, epoch)

    monkeypatch.setattr(Model, "losses", spy)
    for seed in (0, 1):
        fit(replace(smoke(epochs=2, steps=1), seed=seed), tiny_dolls)
    assert len(set(drawn)) == 4


def test_statistics_ruined_in_the_last_step_do_not_replace_a_good_checkpoint(
    monkeypatch, tiny_dolls
):
    run, losses, calls = smoke(epochs=2, steps=2), Model.losses, []

    def ruins(model, batch, epoch):
        terms = losses(model, batch, epoch)
        calls.append(epoch)
        if len(calls) == 4:
            model.head.neck.running_var.data.fill_(math.inf)  # unseen by autograd
        return terms

    monkeypatch.setattr(Model, "losses", ruins)
    with pytest.raises(TrainingStopped, match=r"neck\.running_var is not finite after epoch 2"):
        fit(run, tiny_dolls)
    assert len(checkpoint_of(run)["history"]) == 1
