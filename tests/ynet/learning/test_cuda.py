"""What holds on a GPU: the same training, the same codes, the same clipping as on the processor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ynet.learning.device import ran_out_of_memory
from ynet.learning.dp_sgd import Clipped
from ynet.learning.evaluate import encode
from ynet.learning.hashing import hamming
from ynet.learning.losses import loss_of
from ynet.learning.model import arrays_of, build
from ynet.learning.per_patient_gradients import PatientGradients
from ynet.learning.train import train
from ynet.learning.train_private import trained
from ynet_client.training.microbatches import MicroBatches

pytestmark = [
    pytest.mark.may_skip,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STILL = {"flip": False, "rotate_deg": 0, "scale": 0, "shift": 0, "contrast": 0, "brightness": 0, "noise": 0}


def trained_on(device: torch.device, plan: Any, cases: Any, rounds: int = 2) -> tuple[Any, float]:
    net = build(plan).to(device)
    for number in range(1, rounds + 1):
        result = train(net, cases, plan, number, device=device, generator=torch.Generator().manual_seed(number))
    return net, result.loss


def test_two_rounds_on_the_gpu_come_to_the_loss_of_the_processor_within_what_bf16_rounds(
    make_plan: Any, make_cases: Any
) -> None:
    plan, cases = make_plan(network={"width": 16, "dropout": 0}, training={"learning_rate": 1e-3}), make_cases(64)
    (_, here), (_, there) = trained_on(CPU, plan, cases), trained_on(CUDA, plan, cases)
    assert there == pytest.approx(here, rel=0.03)


def test_a_network_gives_a_case_the_same_code_on_both_but_for_bits_that_are_all_but_undecided(
    make_plan: Any, make_cases: Any
) -> None:
    plan, cases = make_plan(network={"width": 16, "code_bits": 64}), make_cases(64)
    net, _ = trained_on(CUDA, plan, cases)
    there = encode(net, cases, CUDA).codes
    here = encode(net.to(CPU), cases, CPU).codes
    assert np.mean([hamming(one[None], other[None])[0, 0] for one, other in zip(here, there, strict=True)]) < 64 * 0.01


@pytest.mark.parametrize("which", ["all", "heads", "biases"])
def test_patients_gradients_and_their_clipped_sum_are_those_of_the_processor(
    make_plan: Any, make_cases: Any, which: str
) -> None:
    """In single precision: what is clipped is not rounded first."""
    privacy = {"mode": "patient", "epsilon": 8.0, "delta": 1e-3, "trained": which}
    plan = make_plan(network={"width": 16, "dropout": 0}, privacy=privacy)
    batch, sums = make_cases(8).batch(torch.arange(8)), []
    for device in (CPU, CUDA):
        net, there = build(plan).to(device), type(batch)(*(part.to(device) for part in batch))
        parameters, loss = list(trained(net, plan).values()), loss_of(plan, device)

        def total(net: Any = net, there: Any = there, loss: Any = loss) -> Any:
            return loss(net(there.image), there).total

        clipped = Clipped(parameters, 0.1)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            clipped.add(PatientGradients(net, parameters)(8, total))
        sums.append(torch.cat([part.flatten() for part in clipped.total]).double().cpu())
    assert float((sums[0] - sums[1]).norm() / sums[0].norm()) < 1e-3
    assert float(sums[1].norm()) <= 8 * 0.1 * (1 + 1e-5)


def test_a_gpu_whose_memory_is_too_small_for_a_batch_trains_it_in_pieces(
    make_plan: Any, make_cases: Any, tmp_path: Path
) -> None:
    plan = make_plan(network={"width": 32}, training={"batch_size": 64})
    cases = make_cases(64, size=128)
    seen = []

    def one(pieces: int) -> dict[str, np.ndarray]:
        seen.append(pieces)
        torch.cuda.empty_cache()
        net = build(plan).to(CUDA)
        train(net, cases, plan, 1, device=CUDA, generator=torch.Generator().manual_seed(1), micro_batches=pieces)
        return arrays_of(net)

    whole = one(1)
    peak, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            one(1)
        assert ran_out_of_memory(caught.value)
        del caught
        found = MicroBatches(tmp_path / "training.json").run(plan, one)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert seen[-1] > 1
    moved = np.concatenate([(found[name] - whole[name]).ravel() for name in whole])
    assert float(np.abs(moved).mean()) < 1e-3
