"""Row-wise AdamW against torch's, on the same gradients."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hybridret.training.optimizer import RowAdamW, clip_gradients  # noqa: E402

ROWS, WIDTH = 50, 8


def model(sparse: bool) -> torch.nn.ModuleList:
    torch.manual_seed(0)
    table = torch.nn.Embedding(ROWS, WIDTH, sparse=sparse, padding_idx=0)
    return torch.nn.ModuleList([table, torch.nn.Linear(WIDTH, 3)])


def backward(modules: torch.nn.ModuleList, ids: torch.Tensor) -> None:
    table, linear = modules
    linear(table(ids)).square().sum().backward()


def batches(count: int, most: int = 40) -> list[torch.Tensor]:
    """Ever more rows, but never all."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, min(most, 4 + 3 * n), (2, 5), generator=generator) for n in range(count)
    ]


def rows_equal(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("most", [20, 40])  # of 50; from half of them on all are kept
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_weights_are_those_of_torch(decay, clip, most):
    ours, theirs = model(True), model(False)
    mine = RowAdamW(ours.parameters(), ours[0].weight, lr=1e-2, weight_decay=decay)
    peer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=decay, fused=True)
    for step, ids in enumerate(batches(20, most)):
        for optimizer in (mine, peer):
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
            optimizer.zero_grad()
        mine.read([ids])
        rows_equal(ours[0](ids), theirs[0](ids))  # before any use
        backward(ours, ids)
        backward(theirs, ids)
        assert ours[0].weight.grad.is_sparse
        ours[0].weight.grad = ours[0].weight.grad.coalesce()
        if clip:
            clip_gradients(ours.parameters(), clip)
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        mine.step()
        peer.step()
    kept = len(mine.state[ours[0].weight]["rows"])
    assert kept == ROWS if most == 40 else kept <= 20
    if decay and most == 20:
        assert not torch.equal(ours[0].weight[40:], theirs[0].weight[40:])  # not yet
    mine.settle()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        rows_equal(a, b)


def test_state_goes_on_bitwise():
    whole, parts = model(True), model(True)
    one = RowAdamW(whole.parameters(), whole[0].weight, lr=1e-2, weight_decay=0.1)
    two = RowAdamW(parts.parameters(), parts[0].weight, lr=1e-2, weight_decay=0.1)
    for step, ids in enumerate(batches(12)):
        if step == 6:
            one.settle()
            two.settle()
            state = {p: dict(two.state[p]) for p in parts.parameters()}
            two = RowAdamW(parts.parameters(), parts[0].weight, lr=1e-2, weight_decay=0.1)
            two.state.update(state)
        for modules, optimizer in ((whole, one), (parts, two)):
            optimizer.zero_grad()
            optimizer.read([ids])
            backward(modules, ids)
            optimizer.step()
    one.settle()
    two.settle()
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_a_table():
    ours, theirs = model(False), model(False)
    mine = RowAdamW(ours.parameters(), None, lr=1e-2, weight_decay=0.1)
    peer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
    for ids in batches(3):
        for modules, optimizer in ((ours, mine), (theirs, peer)):
            optimizer.zero_grad()
            backward(modules, ids)
            optimizer.step()
    mine.settle()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
