"""What Spike2Former does beyond the authors' figures: heads, neurons, time, labels, scores."""

import pytest
import torch

from models import build_model, resolve
from models.checkpoint import load_model, save_checkpoint
from models.spike2former.loss import MaskLoss

H, W = 32, 64


def tiny(**settings):
    torch.manual_seed(0)
    given = {"variant": "gen1", "time_steps": 2, **settings}
    return build_model("spike2former-tiny", **given)


def labels(B=1, classes=4):
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, classes, (B, H // 8, W // 8), generator=generator)
    coarse = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    coarse[:, :4] = 255
    return coarse


def test_sizes():
    counts = {"tiny": 1_376_319, "15m": 34_361_112}
    for size, wanted in counts.items():
        with torch.device("meta"):
            classes = 5 if size == "tiny" else 150
            channels = 2 if size == "tiny" else 3
            model = build_model(f"spike2former-{size}", num_classes=classes, in_channels=channels)
        assert sum(p.numel() for p in model.parameters()) == wanted
    assert (resolve("spike2former-tiny").task, resolve("ems-res10").task) == (
        "segmentation",
        "detection",
    )


@pytest.mark.parametrize("head", ["mask", "fpn"])
@pytest.mark.parametrize("activation", ["nilif", "ilif", "relu"])
def test_every_neuron_learns_and_scores(events, head, activation):
    model = tiny(head=head, activation=activation, decay=0.25)
    maps = model(events(2, 1, 2, H, W).float())
    losses = model.criterion({})(maps, labels())
    assert [*losses] == (["cls", "mask", "dice"] if head == "mask" else ["ce", "dice"])
    sum(losses.values()).backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert not idle
    scores = model.decode(maps, (H, W))
    assert scores.shape == (1, 4, H, W)
    assert ((scores >= 0) & torch.isfinite(scores)).all()


def test_gradients_of_small_maps_do_not_overflow(events):
    """Few tokens make small products: neurons behind them must not begin silent."""
    model = tiny(time_steps=1)
    losses = model.criterion({})(model(events(1, 2, 2, H, W).float()), labels(2))
    sum(losses.values()).backward()
    norms = [p.grad.norm() for p in model.parameters()]
    assert torch.stack(norms).norm() < 1e4


@pytest.mark.slow
@pytest.mark.parametrize("head", ["mask", "fpn"])
def test_it_learns_a_scene(events, head):
    model = tiny(head=head, time_steps=1)
    wanted = torch.where(labels(2) == 255, 0, labels(2))
    x = events(1, 2, 2, H, W).float() + wanted[None, :, None]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    criterion, totals = model.criterion({}), []
    for _ in range(15):
        loss = sum(criterion(model(x), wanted).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.92 * totals[0]


@pytest.mark.parametrize(("stride", "size"), [(2, (16, 32)), (4, (8, 16))])
def test_pixel_logits_come_at_either_stride(events, stride, size):
    (logits,) = tiny(head="fpn", fpn_stride=stride)(events(2, 3, 2, H, W).float())
    assert logits.shape == (3, 4, *size)


def test_without_decay_steps_are_images_whose_logits_are_averaged(events, lively):
    model, x = lively(tiny()), events(2, 1, 2, H, W)
    together = model(x)
    alone = [model(x[t : t + 1]) for t in range(2)]
    for maps in zip(together, *alone, strict=True):
        torch.testing.assert_close(maps[0], (maps[1] + maps[2]) / 2, rtol=0, atol=1e-9)


def test_with_decay_membranes_go_from_bin_to_bin_and_from_call_to_call(events, lively):
    model, x = lively(tiny(decay=0.5)), events(2, 1, 2, H, W)
    together = model(x)
    alone = [model(x[t : t + 1]) for t in range(2)]
    assert not torch.allclose(together[1], (alone[0][1] + alone[1][1]) / 2)
    model.carry_state = True
    in_turn = [model(x[t : t + 1]) for t in range(2)]
    for maps in zip(together, *in_turn, strict=True):
        torch.testing.assert_close(maps[0], (maps[1] + maps[2]) / 2, rtol=0, atol=1e-9)


def test_the_last_level_alone_scores_the_same(events, lively):
    model, x = lively(tiny()), events(2, 2, 2, H, W)
    every = model(x)
    model.decoded_only = True
    last = model(x)
    assert [len(m) for m in last] == [1, 1]
    for few, many in zip(last, every, strict=True):
        torch.testing.assert_close(few, many[-1:], rtol=0, atol=1e-12)
    assert len(model.train()(x)[0]) == 4


def test_checkpointed_stages_give_the_same_gradients(events):
    gradients = []
    for stages in (False, True):
        model = tiny(checkpoint_stages=stages).double()
        maps = model(events(2, 1, 2, H, W))
        sum(m.square().mean() for m in maps).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, wanted in gradients[0].items():
        assert torch.equal(gradients[1][name], wanted), name


def test_a_checkpoint_brings_the_network_back(tmp_path):
    model = tiny(head="fpn", axes="published")
    save_checkpoint(tmp_path / "a.pt", model.config, model.state_dict(), {})
    back, checkpoint = load_model(tmp_path / "a.pt")
    assert checkpoint.config == model.config
    assert back.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "box"}, "head is 'box', expected one of mask, fpn"),
        ({"axes": "x"}, "axes is 'x', expected one of aligned, published"),
        ({"fpn_stride": 8}, "fpn_stride is 8, expected 2 or 4"),
        ({"widths": (8, 8)}, r"widths is \(8, 8\), expected 4 numbers of channels"),
        ({"backbone_heads": 7}, "heads is 7, expected a divisor of 64 channels"),
        ({"encoder_groups": 7}, "groups is 7, expected a divisor of 64 channels"),
        ({"decoder_heads": 7}, "heads is 7, expected a divisor of 64 channels"),
    ],
)
def test_an_impossible_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


# --- labels and losses -----------------------------------------------------------------------


def random_maps(L=2, B=2, Q=6, nc=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(L, B, Q, nc + 1, generator=generator, dtype=torch.float64)
    masks = torch.randn(L, B, Q, H // 2, W // 2, generator=generator, dtype=torch.float64)
    return [classes.requires_grad_(), masks.requires_grad_()]


def test_what_is_predicted_for_ignored_px_does_not_matter():
    maps, wanted = random_maps(), labels(2)
    other = [m.detach().clone() for m in maps]
    other[1][..., :1, :] += 20  # far from judged px, which lie 4 rows on
    here, there = (MaskLoss(4)(m, wanted) for m in (maps, other))
    as_published = [MaskLoss(4, ignored="background")(m, wanted) for m in (maps, other)]
    for name in ("cls", "mask", "dice"):
        torch.testing.assert_close(here[name], there[name], rtol=0, atol=1e-12)
    assert as_published[0]["mask"] < as_published[1]["mask"] - 1
    here["mask"].backward()
    assert not maps[1].grad[..., :1, :].any()


def test_without_ignored_px_both_readings_agree():
    maps, wanted = random_maps(), labels(2)
    wanted = torch.where(wanted == 255, 0, wanted)
    ours, theirs = (MaskLoss(4, ignored=i).levels(maps, wanted) for i in ("left-out", "background"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["mask", "fpn"])
def test_an_image_without_a_judged_px_counts_for_nothing(head):
    criterion = tiny(head=head).criterion({})
    maps, wanted = random_maps(), labels(2)
    maps = maps if head == "mask" else [maps[1][0, :, :4].detach().requires_grad_()]
    wanted[1] = 255
    both = criterion(maps, wanted)
    one = criterion([m[:, :1] if head == "mask" else m[:1] for m in maps], wanted[:1])
    for name, loss in both.items():
        torch.testing.assert_close(loss, one[name], rtol=1e-6, atol=0)
    nothing = criterion(maps, torch.full_like(wanted, 255))
    assert sum(nothing.values()).item() == 0
    sum(nothing.values()).backward()
    assert not any(m.grad.any() for m in maps)


@pytest.mark.parametrize("head", ["mask", "fpn"])
def test_ranks_share_the_loss_of_all_images(head):
    model = tiny(head=head)
    maps, wanted = random_maps(B=3), labels(3)
    maps = maps if head == "mask" else [maps[1][0, :, :4].detach().requires_grad_()]
    parts = [slice(0, 1), slice(1, 3)]
    shares = [([m[:, p] if head == "mask" else m[p] for m in maps], wanted[p]) for p in parts]
    counts: list[torch.Tensor] = []
    for share in shares:
        model.criterion({}, lambda totals: counts.append(totals) or totals)(*share)
    of_all = model.criterion({}, lambda _totals: sum(counts))
    whole = model.criterion({})(maps, wanted)
    summed = [of_all(*share) for share in shares]
    for name, loss in whole.items():
        both = summed[0][name] + summed[1][name]
        torch.testing.assert_close(both, loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("head", ["mask", "fpn"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(2, H, W), r"labels have shape .* dtype torch.float32, expected integers"),
        (torch.zeros(1, H, W, dtype=torch.long), r"shape \(1, 32, 64\) .* integers \[2, H, W\]"),
        (torch.full((2, H, W), 4), r"labels name class 4, expected 0\.\.3 or 255"),
    ],
)
def test_other_labels_are_refused(head, wrong, message):
    maps = random_maps()
    maps = maps if head == "mask" else [maps[1][0, :, :4]]
    with pytest.raises(ValueError, match=message):
        tiny(head=head).criterion({})(maps, wrong)


def test_queries_that_say_it_all_score_the_labels():
    """A query per class, sure of its class and of its mask."""
    wanted = torch.where(labels() == 255, 0, labels())
    classes = 20 * torch.eye(4, 5)[None, None]
    masks = 40.0 * (wanted[:, None] == torch.arange(4)[:, None, None])[None] - 20
    scores = tiny().decode([classes, masks], (H, W))
    assert torch.equal(scores.argmax(1), wanted)
    assert scores.amax(1).min() > 0.99
    losses = MaskLoss(4)([classes, masks], labels())
    assert sum(losses.values()) < 0.01
