"""The provider "process": ports, places, GPUs and the directory, which workers share."""

import errno
import socket
import types

import msgspec
import pytest

from provisioner.provider import MachineState, Permanent, Transient
from provisioner.providers.process import Folder, files, gpus, ports
from provisioner.providers.process.files import DirectoryInUse
from provisioner.providers.process.gpus import Gpu
from schemas.ids import WorkerId
from schemas.reasons import Cause
from tests.provisioner.desk import eventually
from tests.provisioner.processes import processes_of, runs_of

# --- ports ---------------------------------------------------------------------------------------------------------


async def test_a_start_takes_other_ports_when_its_own_are_taken_meanwhile(make_provider, order, template, up, state_dir):
    provider = make_provider()
    machine = await provider.create(order(template()))
    await up(machine)
    await provider.stop(machine.worker_id)
    port = int(machine.url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        again = await provider.start(machine.worker_id)
        assert again.url != machine.url


async def test_a_port_conflict_is_mended_once_and_then_named(make_provider, order, template, watching, state_dir):
    """Somebody takes the port between our look and the worker's bind."""
    provider = make_provider()
    told = await watching(provider)
    unlucky = (
        "import socket; runs = sum(1 for _ in open(here / 'runs.jsonl'));"
        "runs < 2 and (print('OSError: [Errno 98] Address already in use', flush=True), sys.exit(1))"
    )
    lucky_later = await provider.create(order(template(unlucky)))
    await eventually(lambda: lucky_later.worker_id in told)
    after = await provider.describe(lucky_later.worker_id)
    assert after.state is MachineState.RUNNING and after.url != lucky_later.url

    never = await provider.create(order(template("print('Address already in use', flush=True); sys.exit(1)")))
    await eventually(lambda: told.count(never.worker_id) == 2)
    after = await provider.describe(never.worker_id)
    assert after.state is MachineState.EXITED and after.failure.cause == Cause.PORT_CONFLICT
    assert len({run["env"]["WORKER_PORT"] for run in runs_of(state_dir / "workers" / never.worker_id)}) == 2


async def test_a_relaunch_that_its_launcher_did_not_survive_is_found(make_provider, order, template, up, state_dir):
    """Killed after the launch on other ports and before the pid was written: nobody asked for it, so nobody asks again."""
    provider = make_provider()
    machine = await provider.create(order(template()))
    pid = await up(machine)
    folder = Folder(state_dir)
    saved = folder.read(machine.worker_id)
    folder.write(msgspec.structs.replace(saved, pid=0, birth=""))
    found = await make_provider().describe(machine.worker_id)
    assert found.state is MachineState.RUNNING and found.provider_ref == f"pid:{pid}"
    # And when it was killed before the launch:
    await provider.stop(machine.worker_id)
    folder.write(msgspec.structs.replace(saved, pid=0, birth="", port_retries=1))
    lost = await make_provider().describe(machine.worker_id)
    assert lost.state is MachineState.EXITED and lost.failure.cause is Cause.START_CRASH


async def test_a_disk_that_cannot_be_written_is_tried_again_later(make_provider, order, template, monkeypatch, state_dir):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    provider, wanted = make_provider(), order(template())
    with monkeypatch.context() as patch, pytest.raises(Transient, match="No space left"):
        patch.setattr(files, "_write_whole", full)
        await provider.create(wanted)
    assert not processes_of(state_dir)
    assert (await provider.create(wanted)).state is MachineState.RUNNING


async def test_workers_never_share_ports(make_provider, order, template):
    first = next(base for base in range(24000, 29000, 8) if all(map(ports.is_port_free, range(base, base + 8))))
    provider = make_provider(port_span=(first, first + 7))  # two blocks
    urls = {(await provider.create(order(template()))).url for _ in range(2)}
    assert len(urls) == 2
    with pytest.raises(Transient) as full:
        await provider.create(order(template()))
    assert full.value.cause == Cause.PORT_CONFLICT


# --- room and GPUs -------------------------------------------------------------------------------------------------


async def test_no_more_workers_than_allowed_run_at_once(make_provider, order, template):
    provider = make_provider(max_workers=1)
    wanted = order(template())
    assert [offer.count for offer in await provider.offers(wanted)] == [1]
    first = await provider.create(wanted)
    assert not await provider.offers(wanted)
    with pytest.raises(Permanent) as refused:
        await provider.create(order(template()))
    assert refused.value.cause == Cause.NO_OFFER
    await provider.stop(first.worker_id)
    second = await provider.create(order(template()))
    with pytest.raises(Permanent):
        await provider.start(first.worker_id)
    assert (await provider.describe(first.worker_id)).state is MachineState.STOPPED
    assert (await provider.describe(second.worker_id)).state is MachineState.RUNNING


async def test_a_gpu_belongs_to_one_hot_worker(make_provider, order, template, up, state_dir):
    gpus = (Gpu(0, "H100", 80.0), Gpu(1, "H100", 80.0), Gpu(2, "L4", 24.0))
    provider = make_provider(gpus_here=lambda: gpus)

    def visible(machine):
        return runs_of(state_dir / "workers" / machine.worker_id)[-1]["env"]["CUDA_VISIBLE_DEVICES"]

    small = await provider.create(order(template(gpus=1)))  # the smallest that will do
    big = await provider.create(order(template(gpus=1), gpu_ram=40.0))
    none = await provider.create(order(template()))
    for machine in (small, big, none):
        await up(machine)
    assert (visible(small), visible(big), visible(none)) == ("2", "0", "")
    assert (small.gpu_name, big.gpu_name, big.num_gpus) == ("L4", "H100", 1)

    two = order(template(gpus=2))
    assert not await provider.offers(two)
    with pytest.raises(Permanent) as refused:
        await provider.create(two)
    assert refused.value.cause == Cause.NO_OFFER
    assert not (state_dir / "workers" / two.worker_id).exists()
    await provider.stop(big.worker_id)
    assert [offer.gpu_name for offer in await provider.offers(two)] == ["H100"]
    both = await provider.create(two)
    await up(both)
    assert visible(both) == "0,1"


def test_the_inventory_is_what_nvml_says(monkeypatch):
    class Nvml:
        NVMLError = gpus.pynvml.NVMLError
        nvmlInit = nvmlShutdown = staticmethod(lambda: None)
        nvmlDeviceGetCount = staticmethod(lambda: 2)
        nvmlDeviceGetHandleByIndex = staticmethod(lambda index: index)
        nvmlDeviceGetName = staticmethod(lambda handle: (b"L4", "H100")[handle])
        nvmlDeviceGetMemoryInfo = staticmethod(lambda handle: types.SimpleNamespace(total=24e9 + handle))

    monkeypatch.setattr(gpus, "pynvml", Nvml)
    assert gpus.inventory() == (Gpu(0, "L4", 24.0), Gpu(1, "H100", pytest.approx(24.0)))

    def no_driver():
        raise Nvml.NVMLError(1)

    monkeypatch.setattr(Nvml, "nvmlInit", no_driver)
    assert gpus.inventory() == ()


# --- the directory -------------------------------------------------------------------------------------------------


def test_one_provisioner_per_directory(state_dir):
    with Folder(state_dir).locked(), pytest.raises(DirectoryInUse), Folder(state_dir).locked():
        pass
    with Folder(state_dir).locked():
        pass


async def test_a_damaged_file_is_set_aside_and_its_process_ended(make_provider, order, template, up, state_dir):
    provider = make_provider()
    broken, sound = await provider.create(order(template())), await provider.create(order(template()))
    await up(broken)
    (state_dir / "workers" / broken.worker_id / "instance.json").write_text('{"worker_id": ')
    assert [machine.worker_id for machine in await provider.inventory()] == [sound.worker_id]
    await eventually(lambda: len(processes_of(state_dir)) == 1)
    assert (state_dir / "workers" / f"{broken.worker_id}.damaged" / "worker.log").exists()


@pytest.mark.parametrize("name", ["../escape", "w1/../../x", "", "W1", "w1.damaged"])
def test_no_worker_id_leads_out_of_the_directory(state_dir, name):
    with pytest.raises(ValueError):
        Folder(state_dir).of(WorkerId(name))


async def test_credentials_are_renewed_before_they_expire(make_provider, order, template, watching, state_dir):
    clock = [1_000_000.0]
    provider = make_provider(now=lambda: clock[0])
    machine = await provider.create(order(template()))
    folder = Folder(state_dir)
    first = folder.read_bundle(machine.worker_id)
    clock[0] += 1700
    told = await watching(provider)
    await eventually(lambda: not told)
    assert folder.read_bundle(machine.worker_id) == first
    clock[0] += 200  # past half of an hour
    await watching(provider)
    await eventually(lambda: folder.read_bundle(machine.worker_id).expires_at > first.expires_at)
